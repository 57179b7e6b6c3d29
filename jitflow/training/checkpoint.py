"""From a checkpoint file to a module that can sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jitflow.errors import CheckpointError
from jitflow.files import load_checkpoint
from jitflow.training.module import FlowModule


def load_module(path: str | Path) -> FlowModule:
    """Rebuild a module from its checkpoint: weights, both averages, settings.

    Args:
        path: A checkpoint written during training.

    Returns:
        The module, in evaluation mode, on the CPU.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it is damaged, not ours, or its weights do not fit; lists the names.
    """
    checkpoint = load_checkpoint(path)
    if "state_dict" not in checkpoint or "hyper_parameters" not in checkpoint:
        raise CheckpointError(
            f"{path} is no jitflow checkpoint: it lacks state_dict or hyper_parameters "
            f"(it holds {', '.join(map(str, list(checkpoint)[:8]))})"
        )
    module = _module_class(checkpoint)(**checkpoint["hyper_parameters"])
    check_state_dict(module.state_dict(), checkpoint["state_dict"], path)
    module.load_state_dict(checkpoint["state_dict"])
    module.on_load_checkpoint(checkpoint)
    return module.eval()


def check_state_dict(expected: dict[str, Any], found: dict[str, Any], path: str | Path) -> None:
    """Raise CheckpointError, listing names, unless two state dicts have the same names and shapes."""
    missing = [name for name in expected if name not in found]
    foreign = [name for name in found if name not in expected]
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
        for what, names in (("missing", missing), ("unknown", foreign), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise CheckpointError(f"the weights in {path} do not fit the model: {'; '.join(problems)}")


def _module_class(checkpoint: dict[str, Any]) -> type[FlowModule]:
    # The only application so far. Looked up rather than imported by the name in the file, which is not trusted.
    from jitflow.training.jit_module import JiTLightningModule

    return JiTLightningModule
