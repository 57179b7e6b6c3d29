"""Outputs of a training step: the loss, and times and losses of the samples for callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class StepOutputs:
    """Loss of a training batch, with details for callbacks; only ``loss`` is part of the autograd graph.

    Args:
        loss: Mean loss of the batch, 0-d; None if the step was skipped.
        t: Time of each sample, shape ``(B,)``, in ``[0, 1]``; None if unknown.
        losses: Loss of each sample, all terms together, shape ``(B,)``, float32; None if unknown.
        parts: Mean of each loss term by name, 0-d each.
    """

    loss: Tensor | None
    t: Tensor | None = None
    losses: Tensor | None = None
    parts: Mapping[str, Tensor] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the ``training_step`` output for Lightning, with every tensor but the loss detached."""
        return {
            "loss": self.loss,
            "t": _detached(self.t),
            "losses": _detached(self.losses),
            "parts": {name: part.detach() for name, part in self.parts.items()},
        }


def read_outputs(outputs: Any) -> StepOutputs:
    """Read the outputs of a training step in any supported form.

    Args:
        outputs: Result of ``training_step``, or argument of ``on_train_batch_end``: a loss, a mapping with ``loss``
            and optionally the other entries of :class:`StepOutputs`, or None for a skipped step. Lightning has by
            then detached its loss and divided it by the number of accumulated batches.

    Returns:
        The available values, detached, with ``t`` and ``losses`` of shape ``(B,)``.
    """
    if not isinstance(outputs, Mapping):
        return StepOutputs(_detached(outputs))
    parts = outputs.get("parts")
    return StepOutputs(
        _detached(outputs.get("loss")),
        _per_sample(outputs.get("t")),
        _per_sample(outputs.get("losses")),
        {name: part.detach() for name, part in parts.items()} if isinstance(parts, Mapping) else {},
    )


def _detached(value: Any) -> Tensor | None:
    return value.detach() if isinstance(value, Tensor) else None


def _per_sample(value: Any) -> Tensor | None:
    return value.detach().flatten() if isinstance(value, Tensor) else None
