"""The command ``sample``: draw from a checkpoint of any application, and save what it draws under documented names.

The function with a docstring is the command; jsonargparse makes its options and help from the signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from jitflow.errors import ConfigError
from jitflow.verbs.commandline import run_command

if TYPE_CHECKING:
    from jitflow.model import Model


def sample(args: list[str]) -> None:
    """Run ``jitflow sample``."""
    run_command("sample", _sample, args)


def _sample(
    checkpoint: str,
    labels: str | None = None,
    users: str | None = None,
    prompt: str | None = None,
    count: int = 1,
    guidance: float | None = None,
    interval: str | None = None,
    solver: str | None = None,
    steps: int | None = None,
    time_shift: float | None = None,
    churn: float | None = None,
    temperature: float | None = None,
    seed: int = 0,
    ema: float | None = None,
    out: str = "outputs/samples",
    batch_size: int = 64,
    device: str | None = None,
    precision: Literal["32", "bf16", "16"] = "32",
    vavae_path: str = "builtin",
    compile: bool = False,
    dry_run: bool = False,
) -> None:
    """Draw from a checkpoint of any application: images of classes, spectrograms of users, texts.

    Writes a PNG of each, one grid of all, and a JSON with every setting; for text also samples.txt. Settings that are
    not given are the model's own.

    Args:
        checkpoint: File to load.
        labels: Classes, such as 0,3,7-9 or all (by default); the number of classes means "any class".
        users: For micro-Doppler: users' numbers, such as 1,4,7-9 or all (by default).
        prompt: For text: beginning of every text.
        count: Images for each label or user; texts.
        guidance: Guidance scale; 1 for none.
        interval: Times low,high between which guidance acts; 0 is noise, 1 is data.
        solver: euler, heun, midpoint or multistep.
        steps: Steps of the solver.
        time_shift: Above 1 puts more of the steps near the noise, below 1 near the image.
        churn: How far sampling goes back towards the noise before each step, in steps; 0 is deterministic.
        temperature: For text: below 1 it writes what is likeliest.
        seed: Seed of the first sample; the others follow.
        ema: Average of the weights: 1 or 2; 0 for the weights themselves; a width such as 0.1 for an average
            reconstructed from the run's snapshots. 1 by default, where there is one.
        out: Folder of the results.
        batch_size: Samples at a time.
        device: cpu, cuda, cuda:1, mps; the fastest there is by default.
        precision: Precision inside the network.
        vavae_path: For latents: the VA-VAE that made them; builtin takes the codec inside the checkpoint.
        compile: Compile the network first, which takes a minute and pays off for many samples.
        dry_run: Say what would be drawn, and draw nothing.
    """
    from jitflow.model import load, parse_interval

    settings = {
        "guidance": guidance,
        "interval": parse_interval(interval) if interval is not None else None,
        "solver": solver,
        "steps": steps,
        "time_shift": time_shift,
        "churn": churn,
        "temperature": temperature,
    }
    check_numbers(count, settings)
    model = load(checkpoint, device=device, vavae_path=vavae_path)
    asked = {"labels": labels, "users": users, "prompt": prompt, "num": count}
    draw(
        model,
        asked,
        settings,
        seed=seed,
        ema=ema,
        out=out,
        batch_size=batch_size,
        precision=precision,
        compile=compile,
        dry_run=dry_run,
    )


def check_numbers(count: int, settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for what is wrong whatever the model is, before its checkpoint is read.

    Args:
        count: Samples of each.
        settings: ``solver``, ``steps`` and ``time_shift`` among others.
    """
    from jitflow.core.solver import get_solver
    from jitflow.core.times import time_grid

    if count < 1:
        raise ConfigError(f"--count must be at least 1; got {count}")
    if settings.get("solver") is not None:
        get_solver(settings["solver"])
    if settings.get("steps") is not None:
        time_grid(settings["steps"])
    if settings.get("time_shift") is not None:
        time_grid(2, shift=settings["time_shift"])


def draw(
    model: Model,
    asked: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    seed: int,
    ema: float | None,
    out: str | Path,
    batch_size: int,
    precision: str,
    compile: bool = False,
    dry_run: bool = False,
) -> None:
    """Draw samples into a folder, print texts, and say where everything is.

    Args:
        model: The model.
        asked: What to draw, in the words of the model's application; None leaves a word out.
        settings: ``guidance`` to ``temperature`` of :meth:`jitflow.model.Model.sample`.
        seed: Seed of the first sample; the others follow.
        ema: Average of the weights; None for the first one where there is one.
        out: Folder of the results.
        batch_size: Samples at a time.
        precision: Precision inside the network.
        compile: Compile the network first.
        dry_run: Say what would be drawn, and draw nothing.

    Raises:
        ConfigError: If the model cannot draw this; before the folder is made.
    """
    from jitflow.io.files import writable_folder
    from jitflow.io.progress import meter

    words = {word: value for word, value in asked.items() if value is not None}
    wanted = model.ask(**words)
    model.check_settings(**settings)
    if ema is not None:
        model.check_ema(ema)
    num, unit = len(wanted), wanted.unit
    said = Console(stderr=True, soft_wrap=True)
    if dry_run:
        said.print(f"would draw {num} {unit}, seeds {seed} to {seed + num - 1}, into {out}", markup=False)
        return
    writable_folder(out)
    if compile:
        model.compile()
    with meter("sampling", num, unit=unit) as progress:
        drawn = model.sample(
            **words,
            seeds=seed,
            ema=ema,
            batch_size=batch_size,
            precision=precision,
            on_progress=lambda done, total: progress.update(num * done / total),
            **settings,
        )
    folder = drawn.save(out)
    console = Console(soft_wrap=True)
    for number, text in zip(drawn.seeds, drawn.texts, strict=False):
        console.rule(f"seed {number}", align="left")
        console.print(text, markup=False, highlight=False)
    said.print(
        f"{num} {unit} in {folder} (see {folder / drawn.grid_name}, settings in {drawn.record_name})", markup=False
    )
