"""The outputs of a training step: the loss, and the times and losses of its samples for callbacks to show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class StepOutputs:
    """Loss of a training batch, and what callbacks show of it; only ``loss`` belongs to the graph of the step.

    Args:
        loss: Mean loss of the batch, 0-d; None where the step was left out.
        t: Time of each sample, shape ``(B,)``, in ``[0, 1]``; None where the step does not tell.
        losses: Loss of each sample, all terms together, shape ``(B,)``, float32; None where the step does not tell.
        parts: Mean of each loss term by name, 0-d each.
    """

    loss: Tensor | None
    t: Tensor | None = None
    losses: Tensor | None = None
    parts: Mapping[str, Tensor] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return what a ``training_step`` hands to Lightning, every tensor but the loss detached from the graph."""
        return {
            "loss": self.loss,
            "t": _detached(self.t),
            "losses": _detached(self.losses),
            "parts": {name: part.detach() for name, part in self.parts.items()},
        }


def read_outputs(outputs: Any) -> StepOutputs:
    """Read the outputs of a training step, whichever form it has.

    Args:
        outputs: What ``training_step`` returned or ``on_train_batch_end`` is given: a loss, a mapping that holds
            ``loss`` and perhaps the other entries of :class:`StepOutputs`, or nothing for a step that was left out.
            Lightning has detached its loss by then, and divided it by the number of accumulated batches.

    Returns:
        What is there, detached, with ``t`` and ``losses`` of shape ``(B,)``.
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
