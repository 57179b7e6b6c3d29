"""Well-separated codewords of 48 signs: the extended quadratic residue code [48, 24, 12].

Any two of its 2^24 codewords differ in at least 12 positions, so that a noisy sampler can distinguish the codewords of
any vocabulary up to that size.

References:
    MacWilliams & Sloane 1977, The Theory of Error-Correcting Codes, chapter 16.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from jitflow.errors import ConfigError

LENGTH = 48
DIMENSION = 24
MIN_DISTANCE = 12
_PRIME = 47


@functools.cache
def generator_matrix() -> Tensor:
    """Build the generator matrix, shape ``(24, 48)``, 0 and 1, int64.

    The quadratic residues modulo 47 are the support of the code's idempotent, whose cyclic shifts span it; a parity
    bit extends each word to 48.
    """
    residues = {x * x % _PRIME for x in range(1, _PRIME)}
    idempotent = torch.tensor([int(i in residues) for i in range(_PRIME)], device="cpu")
    rows = torch.stack([idempotent.roll(shift) for shift in range(_PRIME)])
    basis: list[Tensor] = []
    for column in range(_PRIME):
        with_one = [i for i in range(len(rows)) if rows[i, column]]
        if not with_one:
            continue
        pivot = rows[with_one[0]]
        rows = torch.stack([(row + pivot) % 2 if row[column] else row for row in rows])
        basis = [(row + pivot) % 2 if row[column] else row for row in basis] + [pivot]
    matrix = torch.stack(basis)
    assert len(matrix) == DIMENSION
    return torch.cat([matrix, matrix.sum(dim=1, keepdim=True) % 2], dim=1)


def codewords(count: int, *, seed: int = 0) -> Tensor:
    """Choose codewords, deterministic for a seed.

    Args:
        count: Number of codewords, at most 2^24.
        seed: Selects and orders the codewords; it also permutes positions and flips signs, so that no codeword is
            systematically a flat colour.

    Returns:
        Codewords, shape ``(count, 48)``, float32, -1 and 1; a longer list starts with the shorter one.

    Raises:
        ConfigError: If there are fewer codewords.
    """
    if not 1 <= count <= 1 << DIMENSION:
        raise ConfigError(f"there are codewords for 1 to {1 << DIMENSION} tokens; got {count}")
    generator = torch.Generator().manual_seed(seed)
    places = torch.randperm(LENGTH, generator=generator, device="cpu")
    signs = torch.randint(0, 2, (LENGTH,), generator=generator, device="cpu")
    multiplier = 2 * int(torch.randint(0, 1 << (DIMENSION - 1), (1,), generator=generator, device="cpu")) + 1
    offset = int(torch.randint(0, 1 << DIMENSION, (1,), generator=generator, device="cpu"))
    # An odd multiplier permutes the messages modulo 2^24: distinct codewords without a list of used ones.
    messages = (torch.arange(count, device="cpu") * multiplier + offset) % (1 << DIMENSION)
    bits = (messages[:, None] >> torch.arange(DIMENSION, device="cpu")) & 1
    # Sums of at most 24 ones are exact in float32, whose matrix products are fast.
    words = (bits.float() @ generator_matrix().float()).remainder(2)[:, places]
    return ((words + signs) % 2) * 2 - 1
