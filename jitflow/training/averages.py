"""Module with two exponential moving averages (EMAs) of its weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerStatus
from torch import Tensor, nn

from jitflow.errors import CheckpointError, ConfigError
from jitflow.training.ema_history import EMAHistory
from jitflow.training.sharing import SharedMode, SharedWeights
from jitflow.training.terms import TERMS_PREFIX, LossTerms

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)


def averaged_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a module that have averages by name: all but those of loss terms that need none.

    Args:
        module: The module.
    """
    terms = getattr(module, "loss_terms", None)
    without = terms.without_averages() if isinstance(terms, LossTerms) else set()
    left_out = {f"{TERMS_PREFIX}{name}" for name in without}
    return {name: p for name, p in module.named_parameters() if name not in left_out}


class WeightAverages(pl.LightningModule):
    """A module with two averages of its weights, which ``EMACallback`` creates and updates.

    Attributes:
        ema_params1: First average by parameter name, float32; empty until created. Neither parameters nor
            buffers, so that state dict, optimiser and DDP ignore them.
        ema_params2: Second average.
        ema_on_cpu: Whether both averages stay in host memory, whatever the device of the weights.
        ema_history: Their number of updates, and what is left of the initial weights.
    """

    ema_decay1: float
    ema_decay2: float
    ema_warmup: bool

    def __init__(self) -> None:
        super().__init__()
        self.ema_params1: dict[str, Tensor] = {}
        self.ema_params2: dict[str, Tensor] = {}
        self.ema_on_cpu = False
        self.ema_history = EMAHistory()
        self._warned_no_ema = False
        self._warned_of_start: set[int] = set()
        self._shared_weights = SharedWeights()
        self._shared_mode = SharedMode()

    @contextmanager
    def ema_weights(self, version: int = 1) -> Iterator[None]:
        """Use an average of the weights inside the block, and restore the weights afterwards.

        Args:
            version: 1 or 2.
        """
        with self.other_weights(self.ema_parameters(version)):
            yield

    @contextmanager
    def other_weights(self, averages: Mapping[str, Tensor]) -> Iterator[None]:
        """Use other values of the parameters inside the block, and restore the weights afterwards.

        Nothing is copied if both are float32 on the same device: the storages are swapped. Another thread that
        samples from this module with other weights waits until the block ends.

        Args:
            averages: A value for each of :func:`averaged_parameters`, by name.

        Raises:
            ConfigError: If one is missing.
        """
        missing = [name for name in averaged_parameters(self) if name not in averages]
        if missing:
            raise ConfigError(f"the averages lack {len(missing)} parameters of the model, such as {missing[0]}")
        with self._shared_weights.use(self, averages):
            yield

    @contextmanager
    def present_weights(self) -> Iterator[None]:
        """Keep the weights or average that an outer block selected, whatever other threads do."""
        with self._shared_weights.use_present(self):
            yield

    def ema_parameters(self, version: int = 1) -> dict[str, Tensor]:
        """Return an average by parameter name; raise ConfigError if ``version`` is unknown or has no average."""
        if version not in (1, 2):
            raise ConfigError(f"ema_version must be 1 or 2; got {version!r}")
        averages = self.ema_params1 if version == 1 else self.ema_params2
        if not averages:
            raise ConfigError(f"there is no EMA {version}: train with EMACallback, or load a checkpoint that has one")
        return averages

    def evaluation_mode(self) -> AbstractContextManager[None]:
        """Keep the module in evaluation mode inside the block, without dropout, whatever other threads do."""
        return self._shared_mode.evaluation(self)

    @property
    def is_in_training(self) -> bool:
        """Whether a Trainer runs: a picture drawn then shows the progress of the averages."""
        return self._trainer is not None and self._trainer.state.status == TrainerStatus.RUNNING

    def warn_of_start(self, version: int = 1) -> None:
        """Log one line, once, if an average still holds much of the weights that its training started from.

        Args:
            version: 1 or 2.
        """
        warning = self.ema_history.start_warning(version)
        if warning is not None and version not in self._warned_of_start:
            self._warned_of_start.add(version)
            log.warning(warning)

    def _has_ema(self) -> bool:
        if self.ema_params1:
            if not self.is_in_training:
                self.warn_of_start()
            return True
        if not self._warned_no_ema:
            self._warned_no_ema = True
            pl.utilities.rank_zero_warn("use_ema=True, but this model has no EMA yet; sampling from its weights")
        return False

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse=recurse)
        if self.ema_on_cpu:
            return self
        for averages in (self.ema_params1, self.ema_params2):
            for name, average in averages.items():
                # Follow the module to its device, not to its precision.
                averages[name] = average.to(fn(average).device)
        return self

    def save_averages(self, checkpoint: dict[str, Any]) -> None:
        """Add the averages to a checkpoint, as ``model_ema1`` and ``model_ema2``, and their history."""
        for key, average in (("model_ema1", self.ema_params1), ("model_ema2", self.ema_params2)):
            if average:
                checkpoint[key] = dict(average)
                checkpoint.setdefault("jitflow", {}).update(self.ema_history.state())

    def load_averages(self, checkpoint: Mapping[str, Any]) -> None:
        """Restore the averages that a checkpoint holds; raise CheckpointError if one does not fit."""
        expected = {name: p.shape for name, p in averaged_parameters(self).items()}
        for key in ("model_ema1", "model_ema2"):
            if key not in checkpoint:
                continue
            stored = checkpoint[key]
            # Our files hold parameters only, the release's also buffers: extra entries are fine, missing ones are not.
            wrong = [name for name, shape in expected.items() if name not in stored or stored[name].shape != shape]
            if wrong:
                raise CheckpointError(
                    f"{key} of the checkpoint does not fit this model in {len(wrong)} parameters, "
                    f"such as {', '.join(wrong[:5])}"
                )
            device = "cpu" if self.ema_on_cpu else self.device
            averages = {name: stored[name].to(device, torch.float32, copy=True) for name in expected}
            setattr(self, key.replace("model_ema", "ema_params"), averages)
            self.ema_history = EMAHistory.from_state(
                checkpoint.get("jitflow", {}), steps=checkpoint.get("global_step", 0), settings=vars(self)
            )
