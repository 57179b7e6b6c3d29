"""Condition of a sample: its label, and the part of its state that is already known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """Condition of a batch: class or user labels, and the known data of a prompt or an inpainting.

    Attributes:
        label: Class of each sample, shape ``(B,)``, int64, and the null label means "no class"; for a model with
            named conditions class and codes, ``(B, 1 + K)``, float32, see :mod:`jitflow.core.condition_table`.
        known: Given data that must not change, shape ``(B, *S)``; read only where ``mask`` is true.
        mask: Where ``known`` holds, bool, broadcastable to ``(B, *S)``.
    """

    label: Tensor | None = None
    known: Tensor | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.known is None) != (self.mask is None):
            raise ValueError("a condition needs both known and mask, or neither")

    def apply_known(self, x: Tensor) -> Tensor:
        """Overwrite the known part of a state, shape ``(B, *S)``; without known data nothing changes."""
        if self.known is None or self.mask is None:
            return x
        return torch.where(self.mask, self.known.to(x), x)

    def freeze_known(self, v: Tensor) -> Tensor:
        """Set a velocity, shape ``(B, *S)``, to zero where the state is known."""
        if self.mask is None:
            return v
        return v.masked_fill(self.mask, 0.0)

    def unknown_weight(self, weight: Tensor | None, x: Tensor) -> Tensor | None:
        """Loss weight of each element of data ``(B, *S)``: the given weight, and 0 where the data is known."""
        if self.mask is None:
            return weight
        unknown = (~self.mask).to(x).expand_as(x)
        return unknown if weight is None else unknown * weight
