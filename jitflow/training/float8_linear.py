"""A float8 linear layer of any size; this module needs torchao."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchao.float8.float8_linear import Float8Linear, matmul_with_hp_or_float8_args

# The kernels of float8 products take sizes that are multiples of this.
_MULTIPLE = 16


class PaddedFloat8Linear(Float8Linear):
    """torchao's float8 linear layer, with zeros added to sizes that are no multiples of 16.

    The hidden size of a gated feed-forward layer is one: 2,730 in JiT-L, 3,413 in JiT-H. Zeros change neither the
    scale of a tensor nor a sum.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map the last dimension, ``(..., in_features)`` to ``(..., out_features)``."""
        # A tensor without storage ("meta") is there to count operations, and knows no autocast of its own.
        device = "cpu" if input.device.type == "cpu" else "cuda"
        if torch.is_autocast_enabled(device):
            input = input.to(torch.get_autocast_dtype(device))
        rows, columns = -self.out_features % _MULTIPLE, -self.in_features % _MULTIPLE
        # The padded copy is kept for the backward pass, so it has the input's precision, as autocast's copies have.
        weight = F.pad(self.weight.to(input.dtype), (0, columns, 0, rows))
        padded: Tensor = matmul_with_hp_or_float8_args.apply(
            F.pad(input, (0, columns)), weight.t(), self.linear_mm_config, self.config
        )
        output = padded[..., : self.out_features]
        return output if self.bias is None else output + self.bias.to(output.dtype)
