"""The command ``sample``: draw samples from a checkpoint of any application and save them.

jsonargparse builds the options and help from the signature and docstring of the function.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from jitflow.errors import MOST_SAMPLES, ConfigError, check_count
from jitflow.training.sections import PrecisionOptions, SamplingOptions
from jitflow.verbs.commandline import run_command, split_arguments


@dataclass(frozen=True)
class CompileOptions(PrecisionOptions):
    """Device, batch size, precision and compilation of a command.

    Attributes:
        compile: Compile the network first, which takes half a minute; false compiles nothing. By default on CUDA only,
            where a small network draws so many samples that this repays.
    """

    compile: bool | None = None


@dataclass(frozen=True)
class ConditionOptions:
    """Named conditions of samples, of a model that was trained with some.

    Attributes:
        conditions: Such as user=4,activity=run,speed=1.4; several values of one (activity=run,walk) draw each.
    """

    conditions: str | None = None


@dataclass(frozen=True)
class StartOptions:
    """What samples start from.

    Attributes:
        source: For a model that was trained with a source_path: folder of the images to carry over.
    """

    source: str | None = None


def sample(args: list[str]) -> None:
    """Draw samples from a checkpoint, ``jitflow sample``."""
    run_command("sample", _sample, args)


def sampled_checkpoint(args: list[str]) -> str | None:
    """Return the checkpoint that the arguments of ``jitflow sample`` name, wherever it stands; None without one."""
    return next(iter(split_arguments(args, _sample)[0]), None)


def _sample(
    checkpoint: str,
    labels: str | None = None,
    users: str | None = None,
    prompt: str | None = None,
    count: int = 1,
    seed: int = 0,
    ema: float | None = None,
    out: str = "outputs/samples",
    vavae_path: str = "builtin",
    dry_run: bool = False,
    sampling: SamplingOptions = SamplingOptions(),  # noqa: B008 (frozen)
    compute: CompileOptions = CompileOptions(),
    start: StartOptions = StartOptions(),
    condition: ConditionOptions = ConditionOptions(),
) -> None:
    """Draw samples from a checkpoint of any application: images of classes, spectrograms of users, texts.

    Writes one PNG per sample, a grid of all samples, and a JSON file with every setting; for text also samples.txt.
    Options of a section can be given without it: --guidance 2, --steps 50, --batch_size 16.

    Args:
        checkpoint: File to load, or a run's folder for its best checkpoint, else its last.
        labels: Classes, as names or numbers, such as cat,dog or 0,3,7-9, or all (by default); the number of classes
            means "any class".
        users: For micro-Doppler: users' numbers or names, such as 1,4,7-9, user04 or all (by default).
        prompt: For text: the prefix of every text.
        count: Images for each label or user; texts.
        seed: Seed of the first sample; the others follow.
        ema: Average of the weights: 1 or 2; 0 for the weights themselves; a width such as 0.1 for an average
            reconstructed from the run's snapshots. 1 by default, if the checkpoint has averages.
        out: Folder of the results; a numbered one beside it, such as samples-2, if it holds pictures already.
        vavae_path: For latents: the autoencoder that made them; builtin takes the codec inside the checkpoint.
        dry_run: Print what would be drawn, and draw nothing.
        sampling: How samples are drawn; the model's own settings by default.
        compute: Device, batch size, precision and compilation.
        start: What samples start from; noise by default.
        condition: Named conditions besides class or user; any by default.
    """
    from jitflow.io.files import writable_folder
    from jitflow.io.progress import meter
    from jitflow.io.results_folder import free_folder, holds_pictures
    from jitflow.model import load

    settings = sampling.settings()
    check_numbers(count, settings)
    check_count("--batch_size", compute.batch_size)
    model = load(checkpoint, device=compute.device, vavae_path=vavae_path)
    given = {"labels": labels, "users": users, "prompt": prompt, "num": count, "source": start.source}
    given["conditions"] = condition.conditions
    wanted: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    request = model.ask(**wanted)
    model.check_settings(**settings)
    if ema is not None:
        model.check_ema(ema)
    num, unit = len(request), request.unit
    check_memory(num, model.module.codec.shape, unit)
    folder = free_folder(out, holds_pictures)
    messages = Console(markup=False, stderr=True, soft_wrap=True)
    if dry_run:
        messages.print(f"would draw {num} {unit}, seeds {seed} to {seed + num - 1}, into {folder}", markup=False)
        return
    writable_folder(folder)
    if compute.compile is None:
        model.compile_for(num, compute.batch_size)
    else:
        model.compile(compute.compile)
    started = time.monotonic()
    with meter("sampling", num, unit=unit) as progress:
        drawn = model.sample(
            **wanted,
            **settings,
            seeds=seed,
            ema=ema,
            batch_size=compute.batch_size,
            precision=compute.precision,
            on_progress=progress.update_share,
        )
    rate = num / (time.monotonic() - started)
    drawn.save(folder)
    console = Console(markup=False, soft_wrap=True)
    for number, text in zip(drawn.seeds, drawn.texts, strict=False):
        console.rule(f"seed {number}", align="left")
        console.print(text, markup=False, highlight=False)
    messages.print(
        f"{num} {unit} in {folder} (see {folder / drawn.grid_name}, settings in {drawn.record_name}); "
        f"{rate:.3g} {unit}/s",
        markup=False,
    )


def check_memory(num: int, shape: Sequence[int], unit: str) -> None:
    """Raise ConfigError if samples, which are saved together, cannot fit into the memory.

    Args:
        num: Number of samples.
        shape: Shape of one in the model space.
        unit: Their name in the plural.
    """
    import torch

    from jitflow.io.units import format_bytes
    from jitflow.run.memory_fit import device_memory

    room, needed = device_memory(torch.device("cpu")), num * math.prod(shape)
    if room is not None and needed > room:
        raise ConfigError(
            f"{num:,} {unit} need at least {format_bytes(needed)} of memory and {format_bytes(room)} are available; "
            "lower --count, and draw the others with another --seed"
        )


def check_numbers(count: int, settings: Mapping[str, Any]) -> None:
    """Raise ConfigError if a setting is invalid for every model, before the checkpoint is read.

    Args:
        count: Samples for each label, user or prompt.
        settings: Sampling settings: ``solver``, ``steps`` and ``time_shift`` among others.
    """
    from jitflow.core.solver import get_solver
    from jitflow.core.times import time_grid

    check_count("--count", count, most=MOST_SAMPLES)
    if "solver" in settings:
        get_solver(settings["solver"])
    if "steps" in settings:
        time_grid(settings["steps"])
    if "time_shift" in settings:
        time_grid(2, shift=settings["time_shift"])
