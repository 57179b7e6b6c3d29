"""EMA snapshots: power-function averages of the weights, from which any EMA can be reconstructed after training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from jitflow.core.ema import copy_parameters
from jitflow.core.power_ema import exponent_from_width, update_power_ema_
from jitflow.errors import ConfigError
from jitflow.io.files import user_path
from jitflow.training.averages import averaged_parameters
from jitflow.training.posthoc_ema import (
    differing_parameters,
    read_snapshot,
    snapshot_name,
    snapshot_paths,
    write_snapshot,
)


class EMASnapshotCallback(pl.Callback):
    """Update power-function averages of the weights and save snapshots of them every ``every_n_steps`` optimiser steps.

    :func:`jitflow.training.posthoc_ema.reconstruct_ema` reconstructs averages of other widths from the files; a
    relative error of 1e-3 in the weights needs about 32 snapshots of two widths before the target step.

    Cost: one float32 copy of the weights per width, on the device of every process and again in every
    checkpoint (two widths: as much as EMACallback), and the same on disk per snapshot step.

    A resumed training continues the averages of its checkpoint, and later snapshots are replaced by new ones. If the
    averages start again, snapshots of an earlier training are moved to ``earlier-1``, ``earlier-2``, ... in the folder.
    Both happen at the first snapshot, so a training that fails before it changes nothing. Averages that start in the
    middle of a training treat the weights as constant before that step.

    Args:
        dirpath: Folder of the snapshots, one for each training.
        widths: Standard deviations of the averaging profiles relative to the training so far, in ``(0, 0.2887]``,
            distinct in three decimals.
        every_n_steps: Optimiser steps between two snapshots; the end of training is always saved.

    Raises:
        ConfigError: If an argument is out of range, before training if the folder cannot be used or holds
            snapshots of another model, and on resuming if the checkpoint has other widths.

    References:
        Karras et al. 2024, arXiv:2312.02696, section 3.
    """

    def __init__(
        self,
        dirpath: str | Path = "./ema_snapshots",
        widths: Sequence[float] = (0.05, 0.10),
        every_n_steps: int = 1000,
    ) -> None:
        if every_n_steps < 1:
            raise ConfigError(f"every_n_steps must be at least 1; got {every_n_steps}")
        if not widths:
            raise ConfigError("widths is empty; give two or more, such as 0.05 and 0.10")
        if len({snapshot_name(0, width) for width in widths}) < len(widths):
            raise ConfigError(f"widths must differ in their first three decimals; got {tuple(widths)}")
        self.dirpath = user_path(dirpath)
        self.widths = tuple(float(width) for width in widths)
        self.every_n_steps = every_n_steps
        self._gammas = [exponent_from_width(width) for width in self.widths]
        self._averages: list[dict[str, Tensor]] = []
        self._step = 0
        self._written_at_step = -1
        self._restarted = True
        self._outdated: list[Path] = []

    def averages(self, width: float) -> dict[str, Tensor]:
        """Return the running average of a width by parameter name, float32; empty before training."""
        if width not in self.widths:
            raise ConfigError(f"width {width} is not tracked; the widths are {', '.join(map(str, self.widths))}")
        return self._averages[self.widths.index(width)] if self._averages else {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Raise ConfigError if the folder is unusable or holds snapshots of another model."""
        if stage != "fit":
            return
        if trainer.is_global_zero:
            try:
                self.dirpath.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"dirpath {self.dirpath} cannot be used ({error}); choose another") from None
        # Every process checks, so that all of them stop instead of waiting for the first.
        shapes = {name: tuple(p.shape) for name, p in averaged_parameters(pl_module).items()}
        for path in snapshot_paths(self.dirpath):
            wrong = differing_parameters(shapes, read_snapshot(path).shapes)
            if wrong:
                raise ConfigError(
                    f"{self.dirpath} holds snapshots of another model: {path.name} differs in "
                    f"{', '.join(wrong[:3])} ({len(wrong)} in total); choose another dirpath"
                )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Initialise the averages with the weights, unless a checkpoint provided those of this step."""
        weights = averaged_parameters(pl_module)
        self._restarted = not self._averages or trainer.global_step == 0 or self._step != trainer.global_step
        if self._restarted:
            self._averages = [copy_parameters(weights) for _ in self.widths]
        else:
            self._averages = [_match_devices(averages, weights) for averages in self._averages]
        self._step = trainer.global_step
        self._written_at_step = -1
        snapshots = snapshot_paths(self.dirpath) if trainer.is_global_zero else {}
        self._outdated = [path for path, step in snapshots.items() if self._restarted or step > self._step]
        if self._restarted and self._step:
            pl.utilities.rank_zero_warn(
                f"the averages for EMA snapshots start at step {self._step}; before it the weights count as constant"
            )
        if self._restarted and self._outdated:
            pl.utilities.rank_zero_warn(
                f"{self.dirpath} holds {len(self._outdated)} snapshots of an earlier training; they will be moved "
                f"into {_earlier_folder(self.dirpath)} when this one writes its first"
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the averages if this batch ended in an optimiser step, and save a snapshot at the interval."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        weights = averaged_parameters(pl_module)
        for averages, gamma in zip(self._averages, self._gammas, strict=True):
            update_power_ema_(averages, weights, self._step, gamma)
        if self._step % self.every_n_steps == 0:
            self._write(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save a snapshot at the end of training, whatever the interval."""
        if self._step and self._written_at_step != self._step:
            self._write(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the running averages and their step, for the checkpoint."""
        if not self._averages:
            return {}
        return {"step": self._step, "widths": list(self.widths), "averages": [dict(a) for a in self._averages]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the running averages of a checkpoint; raise ConfigError if it has other widths."""
        widths = tuple(state_dict["widths"])
        if widths != self.widths:
            raise ConfigError(
                f"the checkpoint has EMA snapshots of widths {widths}, not {self.widths}; resume with widths={widths}"
            )
        self._step = state_dict["step"]
        self._averages = [copy_parameters(averages) for averages in state_dict["averages"]]

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._written_at_step = self._step
        if not trainer.is_global_zero:
            return
        self._clear_outdated()
        dtype = ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in pl_module.parameters()}))
        for width, averages in zip(self.widths, self._averages, strict=True):
            write_snapshot(self.dirpath, averages, step=self._step, width=width, dtype=dtype)

    def _clear_outdated(self) -> None:
        outdated, self._outdated = self._outdated, []
        if outdated and self._restarted:
            folder = _earlier_folder(self.dirpath)
            folder.mkdir()
            for path in outdated:
                path.rename(folder / path.name)
        else:
            for path in outdated:
                path.unlink(missing_ok=True)


def _match_devices(averages: dict[str, Tensor], weights: dict[str, Any]) -> dict[str, Tensor]:
    """Move averages to the devices of the weights."""
    wrong = differing_parameters(
        {name: tuple(a.shape) for name, a in averages.items()}, {name: tuple(w.shape) for name, w in weights.items()}
    )
    if wrong:
        raise ConfigError(
            f"the checkpoint's averages for EMA snapshots are of another model: {', '.join(wrong[:3])} differ "
            f"({len(wrong)} in total)"
        )
    return {name: averages[name].to(w.device, torch.float32) for name, w in weights.items()}


def _earlier_folder(dirpath: Path) -> Path:
    number = 1
    while (dirpath / f"earlier-{number}").exists():
        number += 1
    return dirpath / f"earlier-{number}"
