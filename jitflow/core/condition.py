"""What a sample is asked to be: a label, and the part of its state that is already known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """The one slot for class, user, prompt and inpainting.

    Attributes:
        label: Class of each sample, shape ``(B,)``, int64; the null label means "no class".
        known: Data that is given and must not change, shape ``(B, *S)``; read only where ``mask`` is true.
        mask: Where ``known`` holds, bool, broadcastable to ``(B, *S)``.
    """

    label: Tensor | None = None
    known: Tensor | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.known is None) != (self.mask is None):
            raise ValueError("a condition needs both of known and mask, or neither")

    def apply_known(self, x: Tensor) -> Tensor:
        """Overwrite the known part of a state, shape ``(B, *S)``; the state itself where nothing is known."""
        if self.known is None or self.mask is None:
            return x
        return torch.where(self.mask, self.known.to(x), x)

    def freeze_known(self, v: Tensor) -> Tensor:
        """Zero a velocity, shape ``(B, *S)``, where the state is known and must stay."""
        if self.mask is None:
            return v
        return v.masked_fill(self.mask, 0.0)

    def unknown_weight(self, weight: Tensor | None, x: Tensor) -> Tensor | None:
        """Weight of each element in a loss of data ``(B, *S)``: the given one, and 0 where the data is known."""
        if self.mask is None:
            return weight
        unknown = (~self.mask).to(x).expand_as(x)
        return unknown if weight is None else unknown * weight
