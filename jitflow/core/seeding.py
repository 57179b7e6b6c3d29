"""A seed names an image: one random generator per sample, whatever the batch size or device."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from jitflow.errors import ConfigError

_MASK = (1 << 64) - 1
_seeds: ContextVar[tuple[int, ...] | None] = ContextVar("jitflow_seeds", default=None)


def mix_seeds(*parts: int) -> int:
    """Hash whole numbers into one seed, so that neighbouring inputs give unrelated streams.

    Args:
        parts: Any whole numbers, such as (seed, epoch, index); their order matters.

    Returns:
        A seed in ``[0, 2**63)``.

    References:
        The finaliser is SplitMix64: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number
        generators".
    """
    state = 0x9E3779B97F4A7C15 * (len(parts) + 1) & _MASK
    for part in parts:
        state = (state ^ (part & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state >> 1


def uniform_from_indices(index: Tensor, *parts: int) -> Tensor:
    """One number in ``[0, 1)`` for each sample, a function of its index and of ``parts`` alone.

    Args:
        index: Index of each sample in the data set, shape ``(B,)``, on the CPU.
        parts: Any whole numbers, such as (seed, epoch).

    Returns:
        Numbers, shape ``(B,)``, float64, on the CPU.
    """
    return torch.tensor([mix_seeds(*parts, i) for i in index.tolist()], dtype=torch.float64).div(1 << 63)


def noise_from_seeds(shape: Sequence[int], seeds: Sequence[int], *, device: torch.device | str | None = None) -> Tensor:
    """Draw unit normal noise, each sample from a generator of its own.

    Drawn on the CPU and then moved, so that a seed names the same noise on every device.

    Args:
        shape: Shape of one sample, ``(*S,)``.
        seeds: One seed per sample, in ``[0, 2**63)``.
        device: Where to put the noise.

    Returns:
        Noise, shape ``(len(seeds), *S)``, float32.

    Raises:
        ConfigError: If a seed is out of range.
    """
    noise = torch.empty(len(seeds), *shape)
    generator = torch.Generator()
    for row, seed in zip(noise, seeds, strict=True):
        if not 0 <= seed < 1 << 63:
            raise ConfigError(f"a seed must lie in [0, 2**63); got {seed}")
        generator.manual_seed(seed)
        row.normal_(generator=generator)
    return noise.to(device)


class _GlobalGenerators:
    """torch's generators, which all threads share: seeded by each, given back as they were by the last to leave."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._outside: list[Tensor] = []

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        with self._lock:
            before = self._states()
            if not self._users:
                self._outside = before
            self._users += 1
            torch.manual_seed(seed)
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                self._restore(before if self._users else self._outside)

    @staticmethod
    def _states() -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count()))]

    @staticmethod
    def _restore(states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for i, state in enumerate(states[1:]):
            torch.cuda.set_rng_state(state, i)


_global_generators = _GlobalGenerators()


@contextmanager
def use_seeds(seeds: Sequence[int]) -> Iterator[None]:
    """Fix the seeds of the samples that are generated inside the block.

    Going through a context lets a user override ``generate(labels, use_ema=True)`` without having to carry
    seeds. The global generator is seeded too and restored afterwards, so that an override which draws its
    own noise repeats as well (though not independently of the batch size, and not while another thread
    samples: there is one global generator for all).

    Args:
        seeds: One seed per sample of the coming call.
    """
    fixed = tuple(int(s) for s in seeds)
    token = _seeds.set(fixed)
    try:
        with _global_generators.seeded(mix_seeds(*fixed)):
            yield
    finally:
        _seeds.reset(token)


def current_seeds(num: int) -> list[int]:
    """Seeds of the coming samples: those of :func:`use_seeds`, else fresh ones from the global generator.

    Args:
        num: How many samples will be drawn.

    Returns:
        ``num`` seeds.

    Raises:
        ConfigError: If the block fixed another number of seeds.
    """
    fixed = _seeds.get()
    if fixed is None:
        return [int(s) for s in torch.randint(1 << 62, (num,))]
    if len(fixed) != num:
        raise ConfigError(f"{len(fixed)} seeds were given for {num} samples; give one seed for each")
    return list(fixed)
