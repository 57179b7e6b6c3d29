"""Random numbers per sample: a seed determines an image, whatever the batch size or device."""

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
    """Hash whole numbers into one seed, so that neighbouring inputs give unrelated random numbers.

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
    """Pseudo-random number in ``[0, 1)`` for each sample, a function of its index and ``parts`` alone.

    Args:
        index: Index of each sample in the data set, shape ``(B,)``, on the CPU.
        parts: Any whole numbers, such as (seed, epoch).

    Returns:
        Numbers, shape ``(B,)``, float64, on the CPU.
    """
    return torch.tensor([mix_seeds(*parts, i) for i in index.tolist()], dtype=torch.float64).div(1 << 63)


def noise_from_seeds(shape: Sequence[int], seeds: Sequence[int], *, device: torch.device | str | None = None) -> Tensor:
    """Draw standard normal noise, each sample from its own generator.

    Noise is drawn on the CPU and then moved, so that a seed gives the same noise on every device.

    Args:
        shape: Shape of one sample, ``(*S,)``.
        seeds: One seed per sample, in ``[0, 2**63)``.
        device: Device of the noise.

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
    """Seed torch's global generators, which all threads share, and restore them when the last thread is done."""

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
    """Set the seeds of the samples generated inside the ``with`` block.

    A context variable lets a user override ``generate(labels, use_ema=True)`` without a seed argument. The global
    generator is also seeded, and restored afterwards, so that an override which draws its own noise is reproducible too
    (but not independently of the batch size, nor while another thread samples: there is one global generator).

    Args:
        seeds: One seed per sample of the call.
    """
    fixed = tuple(int(s) for s in seeds)
    token = _seeds.set(fixed)
    try:
        with _global_generators.seeded(mix_seeds(*fixed)):
            yield
    finally:
        _seeds.reset(token)


def current_seeds(num: int) -> list[int]:
    """Return seeds for the next samples: those set by :func:`use_seeds`, else new ones from the global generator.

    Args:
        num: Number of samples.

    Returns:
        ``num`` seeds.

    Raises:
        ConfigError: If :func:`use_seeds` set another number of seeds.
    """
    fixed = _seeds.get()
    if fixed is None:
        return [int(s) for s in torch.randint(1 << 62, (num,))]
    if len(fixed) != num:
        raise ConfigError(f"{len(fixed)} seeds were given for {num} samples; give one seed for each")
    return list(fixed)
