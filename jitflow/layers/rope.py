"""Rotary position embedding on a two-dimensional grid of tokens.

Shapes: B batch, A heads, N tokens, K head dim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def rope_table(grid: tuple[int, int], head_dim: int, *, num_prefix: int = 0, theta: float = 10000.0) -> Tensor:
    """Table of each token's rotation angles: the row rotates the first half of a head, the column the second.

    Each axis has ``head_dim / 4`` frequencies ``theta^(-2i / (head_dim / 2))``.

    Args:
        grid: Rows and columns of tokens, row-major.
        head_dim: K, divisible by 4.
        num_prefix: Leading tokens that have no position on the grid and are not rotated.
        theta: Base of the frequencies.

    Returns:
        Table, shape ``(2, num_prefix + N, K / 2)``, float32: cosines, then sines, one for each pair of
        neighbouring channels.

    References:
        Su et al. 2021, arXiv:2104.09864; the two-axis form as in EVA-02, arXiv:2303.11331.
    """
    half = head_dim // 2
    freqs = theta ** (-torch.arange(0, half, 2, dtype=torch.float64) / half)
    rows, cols = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = torch.cat([rows.reshape(-1, 1) * freqs, cols.reshape(-1, 1) * freqs], dim=1)
    angles = torch.cat([angles.new_zeros(num_prefix, half), angles])
    return torch.stack([angles.cos(), angles.sin()]).float()


class RotaryTable:
    """A rotation table that is computed on first use, once per device, and always in float32.

    It is not a buffer: a buffer would be cast to half precision with the module, and would hold garbage after
    ``to_empty`` on a module built on the meta device.

    Args:
        grid: Rows and columns of tokens.
        head_dim: K.
        num_prefix: Leading tokens that are not rotated.
    """

    def __init__(self, grid: tuple[int, int], head_dim: int, *, num_prefix: int = 0) -> None:
        self._arguments = (grid, head_dim, num_prefix)
        self._tables: dict[torch.device, Tensor] = {}

    # The compiler sees the table as a constant; a table created during tracing would cause a recompilation.
    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
    def __call__(self, device: torch.device) -> Tensor:
        """Return the rotation table of :func:`rope_table` on ``device``."""
        if device not in self._tables:
            grid, head_dim, num_prefix = self._arguments
            # Not in inference mode, or training could not use a table that sampling created first.
            with torch.inference_mode(False):
                self._tables[device] = rope_table(grid, head_dim, num_prefix=num_prefix).to(device)
        return self._tables[device]


class StoredRotaryTable(nn.Module):
    """A rotation table that is also stored in the state dict, as in the LightningDiT release.

    The buffers exist for the file format: the rotation itself uses a :class:`RotaryTable`, which stays exact
    in half precision. Loading weights that were trained with another table is an error.

    Args:
        grid: Rows and columns of tokens.
        head_dim: K.
    """

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, grid: tuple[int, int], head_dim: int) -> None:
        super().__init__()
        self._table = RotaryTable(grid, head_dim)
        # The file has one value for each channel, the table one for each pair.
        cos, sin = rope_table(grid, head_dim).repeat_interleave(2, dim=-1)
        self.register_buffer("freqs_cos", cos)
        self.register_buffer("freqs_sin", sin)

    def forward(self, device: torch.device) -> Tensor:
        """Return the rotation table of :func:`rope_table` on ``device``, float32."""
        return self._table(device)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        expected = self._table(torch.device("cpu")).repeat_interleave(2, dim=-1)
        for name, values in zip(("freqs_cos", "freqs_sin"), expected, strict=True):
            given = state_dict.get(prefix + name)
            if given is None or given.shape != values.shape or given.is_meta:
                continue
            # Half precision rounds by up to 0.004; another position or base differs by far more.
            if not torch.allclose(given.float().cpu(), values, rtol=0, atol=0.01):
                error_msgs.append(f"{prefix}{name} holds rotary positions that differ from this network's")
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def apply_rope(x: Tensor, table: Tensor, *, in_order: bool = True) -> Tensor:
    """Rotate neighbouring pairs of channels: ``(a, b) -> (a cos - b sin, b cos + a sin)``.

    Args:
        x: Queries or keys, shape ``(B, A, N, K)``.
        table: From :func:`rope_table`, shape ``(2, N, K / 2)``, float32.
        in_order: Whether to keep the order of the channels. Otherwise the first channels of all pairs may come before
            all second ones: kernels then write contiguously, and products of queries and keys do not change.

    Returns:
        Rotated, shape ``(B, A, N, K)``, dtype of ``x``; computed in float32.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        # Each pair as one complex number: one pass over memory, where the formula below takes seven.
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(table[0], table[1]))
    else:
        # Compilers fuse the plain formula but do not support complex numbers.
        cos, sin = table[0], table[1]
        a, b = pairs.unbind(-1)
        first, second = a * cos - b * sin, b * cos + a * sin
        if not in_order:
            return torch.cat([first, second], dim=-1).to(x.dtype)
        rotated = torch.stack([first, second], dim=-1)
    return rotated.flatten(-2).to(x.dtype)
