"""Stop training when a loss or gradient is not finite, before it reaches a checkpoint."""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import torch
from torch import Tensor

from jitflow.callbacks.checkpoint import JiTModelCheckpoint
from jitflow.errors import ConfigError, JitflowError
from jitflow.training.outputs import read_outputs

log = logging.getLogger(__name__)

Reaction = Literal["stop", "skip"]
_SHOWN = 8
# Window of steps for the share of skipped steps.
_SHARE_WINDOW = 1000
# Blocks of steps that define the usual loss and gradient, and the minimum number for a warning.
_USUAL_BLOCKS, _MIN_BLOCKS = 50, 5
# Consecutive overflows after which a smaller loss scale cannot help: the scaler halves it each time.
_MAX_OVERFLOWS = 100


class NonFiniteError(JitflowError, ArithmeticError):
    """The loss or the gradient of a training is NaN or infinite."""


@dataclass
class _Step:
    """Loss and gradient norm of a batch until they are checked; the values stay on the device."""

    step: int
    loss: Tensor
    gradient_norm: Tensor | None
    index: Tensor | None
    times: Tensor | None


class FiniteGuard(pl.Callback):
    """Stop training, or skip a step, if loss or gradient is not finite; warn of loss spikes and dead gradients.

    Values stay on the device and are read together every ``check_every_n_steps`` batches and before every checkpoint,
    so the accelerator never waits and no checkpoint holds weights corrupted by such a gradient. With ``16-mixed`` the
    loss scaler expects and handles gradient overflows; only a non-finite loss or 100 consecutive overflows count there.

    Args:
        on_nonfinite: ``stop`` ends the training and reports the step, samples and times of the batch (times are unknown
            if an overridden ``training_step`` returns the loss alone); ``skip`` skips optimiser steps with such a
            gradient.
        check_every_n_steps: Batches between two checks.
        max_skipped_share: Largest share of skipped steps among the last 1000 (3 steps are always allowed).
        spike_factor: Warn when the mean loss between two checks is this many times the usual one.

    Raises:
        ConfigError: If a value is out of range.
    """

    def __init__(
        self,
        on_nonfinite: Reaction = "stop",
        check_every_n_steps: int = 20,
        max_skipped_share: float = 0.01,
        spike_factor: float = 3.0,
    ) -> None:
        if on_nonfinite not in get_args(Reaction):
            raise ConfigError(f"on_nonfinite must be 'stop' or 'skip'; got {on_nonfinite!r}")
        if check_every_n_steps < 1:
            raise ConfigError(f"check_every_n_steps must be at least 1; got {check_every_n_steps}")
        if not 0 <= max_skipped_share <= 1:
            raise ConfigError(f"max_skipped_share must lie in [0, 1]; got {max_skipped_share}")
        if not spike_factor > 1:
            raise ConfigError(f"spike_factor must be above 1; got {spike_factor}")
        self.on_nonfinite = on_nonfinite
        self.check_every_n_steps = check_every_n_steps
        self.max_skipped_share = max_skipped_share
        self.spike_factor = spike_factor
        self.num_skipped = 0
        self._trainer: pl.Trainer | None = None
        self._steps: list[_Step] = []
        self._norm: Tensor | None = None
        self._skipped: deque[bool] = deque(maxlen=_SHARE_WINDOW)
        self._usual_losses: deque[float] = deque(maxlen=_USUAL_BLOCKS)
        self._usual_norms: deque[float] = deque(maxlen=_USUAL_BLOCKS)
        self._is_high = self._is_dead = False
        self._num_overflows = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the steps whose loss and gradient are to be checked."""
        self._trainer, self._steps, self._norm = trainer, [], None
        self._num_overflows = 0

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Compute the norm of the gradient before clipping."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not gradients:
            return
        self._norm = torch.nn.utils.get_total_norm(gradients)
        if self.on_nonfinite == "skip" and not _uses_loss_scaling(trainer):
            _skip_next_step_(optimizer, ~torch.isfinite(self._norm))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Store loss and gradient norm of the step, and check the stored steps at the interval."""
        given = read_outputs(outputs)
        if given.loss is None:
            return
        index = getattr(batch, "index", None)
        self._steps.append(
            _Step(
                trainer.global_step,
                given.loss.float().reshape(()),
                self._norm,
                index if isinstance(index, Tensor) else None,
                given.t,
            )
        )
        self._norm = None
        if len(self._steps) >= self.check_every_n_steps:
            self._check_pending_steps(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the last steps, and log how many were skipped."""
        self._check_pending_steps(trainer)
        if self.num_skipped:
            log.warning("%d steps were skipped because their gradient was not finite", self.num_skipped)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Release the trainer; losses and gradients that were not checked yet are dropped."""
        self._trainer = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Release the trainer; losses and gradients that were not checked yet are dropped."""
        self._trainer = None

    def state_dict(self) -> dict[str, Any]:
        """Check the pending steps before a checkpoint is saved; return skip counts and the usual loss and gradient.

        Raises:
            NonFiniteError: If a loss or gradient was not finite; no checkpoint is saved then.
        """
        if self._trainer is not None:
            self._check_pending_steps(self._trainer)
        return {
            "num_skipped": self.num_skipped,
            "skipped": list(self._skipped),
            "losses": list(self._usual_losses),
            "norms": list(self._usual_norms),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore skip counts and usual values from a checkpoint."""
        self.num_skipped = int(state_dict.get("num_skipped", 0))
        self._skipped.extend(state_dict.get("skipped", ()))
        self._usual_losses.extend(state_dict.get("losses", ()))
        self._usual_norms.extend(state_dict.get("norms", ()))

    def _check_pending_steps(self, trainer: pl.Trainer) -> None:
        """Check losses and gradient norms of the steps since the last check, read in one transfer."""
        steps, self._steps = self._steps, []
        if not steps:
            return
        # Without an optimiser step, the gradient counts as finite.
        one = torch.ones_like(steps[0].loss)
        values = torch.stack([torch.stack([s.loss for s in steps]), torch.stack([_norm_of(s, one) for s in steps])])
        losses, norms = values.tolist()
        overflow_is_normal = _uses_loss_scaling(trainer)
        for step, loss, norm in zip(steps, losses, norms, strict=True):
            gradient_is_bad = not math.isfinite(norm) and not overflow_is_normal
            if self.on_nonfinite == "stop":
                if not math.isfinite(loss) or gradient_is_bad:
                    raise self._error(trainer, step, loss, norm)
            elif step.gradient_norm is not None:
                self._count_skip(trainer, step, loss, norm, skipped=gradient_is_bad)
            if overflow_is_normal and step.gradient_norm is not None:
                self._count_overflow(trainer, step, overflows=not math.isfinite(norm))
        self._warn_of_spike([loss for loss in losses if math.isfinite(loss)], steps[-1].step)
        self._warn_of_dead_gradient(
            [n for s, n in zip(steps, norms, strict=True) if s.gradient_norm is not None and math.isfinite(n)],
            steps[-1].step,
        )

    def _count_skip(self, trainer: pl.Trainer, step: _Step, loss: float, norm: float, *, skipped: bool) -> None:
        self._skipped.append(skipped)
        if not skipped:
            return
        self.num_skipped += 1
        log.warning(
            "step %d skipped: loss %g, norm of the gradient %g; %s (%d steps skipped so far)",
            step.step,
            loss,
            norm,
            _describe(step, trainer),
            self.num_skipped,
        )
        recent = sum(self._skipped)
        if recent > max(3, self.max_skipped_share * _SHARE_WINDOW):
            raise NonFiniteError(
                f"{recent} of the last {len(self._skipped)} steps had a gradient that is not finite, more than "
                f"max_skipped_share={self.max_skipped_share:g}; the last one was {_describe(step, trainer)}; "
                f"{_advice(trainer)}"
            )

    def _count_overflow(self, trainer: pl.Trainer, step: _Step, *, overflows: bool) -> None:
        self._num_overflows = self._num_overflows + 1 if overflows else 0
        if self._num_overflows >= _MAX_OVERFLOWS:
            raise NonFiniteError(
                f"step {step.step}: the gradient has overflowed in {self._num_overflows} consecutive steps, "
                f"whatever the loss scale; {_describe(step, trainer)}; train in bf16-mixed or 32-true, or "
                f"{_advice(trainer)}"
            )

    def _error(self, trainer: pl.Trainer, step: _Step, loss: float, norm: float) -> NonFiniteError:
        what = f"the loss is {loss:g}" if not math.isfinite(loss) else f"the norm of the gradient is {norm:g}"
        return NonFiniteError(f"step {step.step}: {what}; {_describe(step, trainer)}; {_advice(trainer)}")

    def _warn_of_spike(self, losses: Sequence[float], step: int) -> None:
        if not losses:
            return
        mean = statistics.fmean(losses)
        usual = statistics.median(self._usual_losses) if len(self._usual_losses) >= _MIN_BLOCKS else math.inf
        is_high = mean > self.spike_factor * usual > 0
        if is_high and not self._is_high:
            log.warning("loss spike before step %d: %.4g where %.4g is usual", step, mean, usual)
        self._is_high = is_high
        self._usual_losses.append(mean)

    def _warn_of_dead_gradient(self, norms: Sequence[float], step: int) -> None:
        if not norms:
            return
        largest = max(norms)
        usual = statistics.median(self._usual_norms) if len(self._usual_norms) >= _MIN_BLOCKS else 0.0
        is_dead = largest == 0 or largest < 1e-6 * usual
        if is_dead and not self._is_dead:
            log.warning("dead gradient before step %d: its norm is %.2g, so that nothing is learned", step, largest)
        self._is_dead = is_dead
        if not is_dead:
            self._usual_norms.append(statistics.median(norms))


def _norm_of(step: _Step, otherwise: Tensor) -> Tensor:
    return otherwise if step.gradient_norm is None else step.gradient_norm.float().to(otherwise.device)


def _uses_loss_scaling(trainer: pl.Trainer) -> bool:
    """Whether the loss is scaled, as in float16 training."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def _skip_next_step_(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    """Skip the optimiser's next step if ``bad``, decided on the device if the optimiser's kernels support it."""
    if optimizer.defaults.get("fused"):
        # The attribute through which torch's GradScaler tells a fused optimiser to skip a step.
        optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
    elif bool(bad):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


def _describe(step: _Step, trainer: pl.Trainer) -> str:
    """Describe a batch for a message: its samples (by file if the data set has files) and, if known, its times."""
    parts = []
    if step.index is not None:
        indices = step.index.tolist()
        names = _sample_names(trainer, indices[:_SHOWN])
        more = f" and {len(indices) - _SHOWN} more" if len(indices) > _SHOWN else ""
        parts.append(f"samples {', '.join(names)}{more}")
    if step.times is not None and step.times.numel():
        low, high = float(step.times.min()), float(step.times.max())
        parts.append(f"times {low:.4f} to {high:.4f}")
    else:
        parts.append("times unknown")
    return ", ".join(parts)


def _sample_names(trainer: pl.Trainer, indices: Sequence[int]) -> list[str]:
    dataset = getattr(getattr(trainer, "datamodule", None), "dataset_train", None)
    files = getattr(dataset, "samples", None)
    if isinstance(files, Sequence):
        return [f"{i} ({files[i][0]})" if 0 <= i < len(files) else str(i) for i in indices]
    return [str(i) for i in indices]


def _advice(trainer: pl.Trainer) -> str:
    savers = [c for c in getattr(trainer, "callbacks", ()) if isinstance(c, JiTModelCheckpoint)]
    good = next((path for path in (Path(c.last_path) for c in savers) if path.exists()), None)
    ways = "lower the learning rate or clip the gradient, or skip such steps with on_nonfinite='skip'"
    return f"the last good checkpoint is {good}; {ways}" if good else f"nothing was saved yet; {ways}"
