"""Post-hoc EMA: reconstruct an average of any width from the snapshots of EMASnapshotCallback.

A snapshot is one ``.safetensors`` file: a power-function average in float32 under the names of
``module.named_parameters()``, its step and width in the metadata (JSON under ``jitflow_ema_snapshot``).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from jitflow import __version__
from jitflow.core.power_ema import exponent_from_width, predicted_error, reconstruction_coefficients
from jitflow.errors import CheckpointError, ConfigError, MissingFileError
from jitflow.io.files import atomic_path, existing_file, user_path
from jitflow.io.json_text import parse_json
from jitflow.io.safetensors_file import open_tensors

log = logging.getLogger(__name__)

# Above this the weights' relative error reached 1e-3 on random walks; see predicted_error.
MAX_PREDICTED_ERROR = 0.02
_KEY = "jitflow_ema_snapshot"
_NAME = re.compile(r"step(\d{8,})_width(\d\.\d{3})\.safetensors")


@dataclass(frozen=True)
class Snapshot:
    """Metadata of one stored average of the weights.

    Attributes:
        path: File of the snapshot.
        step: Optimiser steps done when it was written.
        width: Relative standard deviation of its profile.
        gamma: Exponent of its profile.
        dtype: Type of the parameters in the training, such as ``"float32"``; the average is always float32.
        version: Version of jitflow that wrote it.
        shapes: Shapes of the parameters by name.
    """

    path: Path
    step: int
    width: float
    gamma: float
    dtype: str
    version: str
    shapes: dict[str, tuple[int, ...]]


def snapshot_name(step: int, width: float) -> str:
    """Return the file name of a snapshot, such as ``step00001000_width0.050.safetensors``."""
    return f"step{step:08d}_width{width:.3f}.safetensors"


def snapshot_paths(folder: str | Path) -> dict[Path, int]:
    """Return the snapshot files of a folder with their steps, sorted; empty if the folder does not exist."""
    found = {path: _NAME.fullmatch(path.name) for path in sorted(Path(folder).glob("step*_width*.safetensors"))}
    return {path: int(match[1]) for path, match in found.items() if match}


def write_snapshot(folder: str | Path, averages: Mapping[str, Tensor], *, step: int, width: float, dtype: str) -> Path:
    """Write one average atomically; an older snapshot file of the same step and width is replaced.

    Args:
        folder: Folder of the snapshots, created if missing.
        averages: The average by parameter name.
        step: Optimiser steps done.
        width: Relative width of its profile.
        dtype: Type of the parameters in the training.

    Returns:
        The file.
    """
    described = {
        "step": step,
        "width": width,
        "gamma": exponent_from_width(width),
        "parameter_dtype": dtype,
        "jitflow": __version__,
    }
    # One entry, because safetensors writes several in random order: equal snapshots must be equal files.
    metadata = {_KEY: json.dumps(described)}
    path = Path(folder) / snapshot_name(step, width)
    with atomic_path(path) as temporary:
        save_file({name: a.detach().float().cpu().contiguous() for name, a in averages.items()}, temporary, metadata)
    return path


def read_snapshot(path: str | Path) -> Snapshot:
    """Read the metadata of a snapshot, without its weights.

    Args:
        path: The file.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it is damaged or not a snapshot.
    """
    path = existing_file(path, what="EMA snapshot")
    try:
        with open_tensors(path) as file:
            text, shapes = file.metadata.get(_KEY), file.shapes
    except CheckpointError as error:
        raise _damaged(path, error.__cause__ or error) from None
    if text is None:
        raise CheckpointError(f"{path} is not an EMA snapshot; move it out of the folder")
    try:
        given = parse_json(text)
        step, width, gamma = int(given["step"]), float(given["width"]), float(given["gamma"])
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None
    return Snapshot(path, step, width, gamma, given.get("parameter_dtype", ""), given.get("jitflow", ""), shapes)


def list_snapshots(folder: str | Path) -> list[Snapshot]:
    """List the snapshots of a folder by step and width; other files are ignored.

    Args:
        folder: The folder of an EMASnapshotCallback.

    Raises:
        MissingFileError: If there is no such folder.
        ConfigError: If the files hold different models.
        CheckpointError: If a file is damaged or no snapshot.
    """
    folder = user_path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"folder of EMA snapshots {folder} does not exist; train with EMASnapshotCallback")
    found = sorted((read_snapshot(path) for path in snapshot_paths(folder)), key=lambda s: (s.step, s.width))
    for snapshot in found[1:]:
        wrong = differing_parameters(found[0].shapes, snapshot.shapes)
        if wrong:
            raise ConfigError(
                f"{folder} holds snapshots of different models: {found[0].path.name} and {snapshot.path.name} differ "
                f"in {', '.join(wrong[:3])} ({len(wrong)} in total); keep those of one training"
            )
    return found


def differing_parameters(a: Mapping[str, tuple[int, ...]], b: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return the names of parameters that only one of two models has, or that differ in shape."""
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def reconstruct_ema(folder: str | Path, width: float, *, step: int | None = None) -> dict[str, Tensor]:
    """Reconstruct the power-function EMA of any width at a training step.

    The files are summed one after the other, so that memory does not grow with their number: 8 bytes per parameter,
    and one tensor. A stored average is returned unchanged, from one file.

    Args:
        folder: Folder of the snapshots.
        width: Relative standard deviation of the averaging profile, in ``(0, 0.2887]``. Between the stored
            widths, and up to half as long again, 32 snapshots give the weights to 1e-3; a warning is logged
            if more would be needed.
        step: Optimiser steps, from the first snapshot's to the last one's; by default the last one's. Only steps of
            snapshots reach that accuracy.

    Returns:
        The average by parameter name, float32, on the CPU; usable as ``module.ema_params1``.

    Raises:
        MissingFileError: If there is no such folder.
        ConfigError: If the folder holds no snapshots or those of different models, or ``step`` or ``width`` is
            out of range.
        CheckpointError: If a file is damaged.
    """
    gamma = exponent_from_width(width)
    snapshots = list_snapshots(folder)
    if not snapshots:
        raise ConfigError(f"{folder} holds no EMA snapshots; train with EMASnapshotCallback")
    steps = sorted({s.step for s in snapshots})
    step = steps[-1] if step is None else step
    if not steps[0] <= step <= steps[-1]:
        raise ConfigError(f"step must lie in the stored range, {steps[0]} to {steps[-1]}; got {step}")
    # Of the snapshots after the target step only the next one contributes.
    end = next(s for s in steps if s >= step)
    snapshots = [s for s in snapshots if s.step <= end]
    coefficients = _coefficients(snapshots, step, gamma, width, steps)
    # Skip files with a negligible coefficient; all of them together stay below float32 rounding.
    chosen = [(s, c) for s, c in zip(snapshots, coefficients, strict=True) if abs(c) > 1e-9 / len(snapshots)]
    return _weighted_sum(chosen)


def _coefficients(
    snapshots: Sequence[Snapshot], step: int, gamma: float, width: float, stored_steps: Sequence[int]
) -> list[float]:
    steps, gammas = [s.step for s in snapshots], [s.gamma for s in snapshots]
    coefficients = reconstruction_coefficients(steps, gammas, step, gamma)
    error = predicted_error(steps, gammas, step, gamma, coefficients)
    if error > MAX_PREDICTED_ERROR:
        advice = "more snapshots are needed: train with a smaller every_n_steps"
        if step not in stored_steps:
            near = min(stored_steps, key=lambda s: abs(s - step))
            advice = f"step {step} lies between snapshots: ask for step {near}; otherwise {advice}"
        log.warning(
            "the EMA of width %g at step %d is not well determined by the snapshots of %d steps (error of the "
            "averaging profile %.3f, at most %.3f is good); %s",
            width,
            step,
            len(set(steps)),
            error,
            MAX_PREDICTED_ERROR,
            advice,
        )
    return coefficients.tolist()


def _weighted_sum(chosen: Sequence[tuple[Snapshot, float]]) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    for snapshot, coefficient in chosen:
        try:
            with open_tensors(snapshot.path) as file:
                for name in snapshot.shapes:
                    tensor = file.tensor(name)
                    if len(chosen) == 1 and coefficient == 1:
                        sums[name] = tensor
                    elif name in sums:
                        sums[name].add_(tensor, alpha=coefficient)
                    else:
                        # Coefficients alternate in sign and may exceed 1: in float32 their sum would lose digits.
                        sums[name] = tensor.double().mul_(coefficient)
        except CheckpointError as error:
            raise _damaged(snapshot.path, error.__cause__ or error) from None
    for name in sums:
        # One at a time, so that sum and result are never in memory together.
        sums[name] = sums[name].float()
    return sums


def _damaged(path: Path, error: BaseException) -> CheckpointError:
    reason = str(error).split("\n")[0] or type(error).__name__
    return CheckpointError(f"{path} cannot be read; it is damaged: delete it, the other snapshots suffice ({reason})")
