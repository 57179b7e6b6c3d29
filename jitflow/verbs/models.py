"""The commands ``convert`` (checkpoint formats) and ``models`` (list of networks).

jsonargparse builds each command's options and help from the signature and docstring of its function.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from jitflow.errors import ConfigError
from jitflow.nets.registry import get_variant, list_models
from jitflow.verbs.commandline import run_command


def convert(args: list[str]) -> None:
    """Convert a checkpoint, ``jitflow convert``."""
    run_command("convert", _convert, args)


def models(args: list[str]) -> None:
    """List the networks, ``jitflow models``."""
    if args[:1] and not args[0].startswith("-"):
        args = [f"--pattern={args[0]}", *args[1:]]
    run_command("models", _models, args)


def _convert(
    source: str,
    target: str,
    ema: Literal["0", "1", "2", "all"] = "1",
    overwrite: bool = False,
    dry_run: bool = False,
) -> None:
    """Convert a checkpoint between the JiT release's .pth, Lightning's .ckpt and .safetensors.

    The target's suffix selects the format. Converting to .pth or .ckpt and back keeps every weight.

    Args:
        source: File to read, or a run's folder.
        target: File to write.
        ema: For .safetensors, the weights to write: 1 or 2 for an average, 0 for the weights themselves, or all.
        overwrite: Replace a target that exists.
        dry_run: Read and describe the source, and write nothing.
    """
    from jitflow.checkpoint.convert import convert as convert_file
    from jitflow.checkpoint.formats import FORMATS, read_state

    if Path(target).suffix not in FORMATS:
        raise ConfigError(f"{target}: the suffix must be one of {', '.join(FORMATS)}")
    state = read_state(source) if dry_run else convert_file(source, target, ema=ema, overwrite=overwrite)
    contents = ["weights"] + [n for n, v in (("EMA 1", state.ema1), ("EMA 2", state.ema2)) if v is not None]
    contents += ["optimiser"] if state.optimizer is not None else []
    Console(markup=False, stderr=True, soft_wrap=True).print(
        f"{source}: {state.settings.get('model_name', 'JiT')}, {', '.join(contents)}, {state.epoch + 1} epochs done"
        + (f" -> {target}" if not dry_run else "")
    )


def _models(pattern: str = "*") -> None:
    """List networks: parameters, cost of one forward pass, tokens.

    Args:
        pattern: Pattern of the names to list, such as 'JiT-B*'.
    """
    from jitflow.inspect.describe import describe_model

    names = list_models(pattern)
    if not names:
        raise ConfigError(f"no model matches {pattern!r}; known: {', '.join(list_models())}")
    table = Table(title="networks")
    for heading in ("name", "image", "tokens", "parameters", "GMACs *", "origin"):
        # Names must not be truncated in a narrow terminal.
        table.add_column(
            heading, justify="left" if heading in ("name", "origin") else "right", no_wrap=heading == "name"
        )
    for name in names:
        facts: dict[str, Any] = describe_model(name)
        height, width = facts["img_size"]
        table.add_row(
            name,
            f"{height}x{width}",
            str(facts["tokens"]),
            f"{facts['parameters'] / 1e6:.2f}M",
            f"{facts['macs'] / 1e9:.3g}",
            get_variant(name).note,
        )
    console = Console(markup=False)
    console.print(table)
    console.print("* multiply-accumulates of one image and one pass; the JiT paper prints these as Gflops.")
