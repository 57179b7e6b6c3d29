"""Read and write samples of a signal in plain files: whole numbers of 16 bits, and complex numbers as text.

Files are read in blocks. What a reader returns takes at most four times the bytes of its file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jitflow.errors import DataError
from jitflow.io.files import atomic_path, existing_file
from jitflow.io.mistaken_file import describe_mistaken_file, unreadable

_SHORT_BYTES = 100_000
_INT16 = np.dtype("<i2")
# What a file is called in errors.
_WHAT = "recording"
_BLOCK_CHARACTERS = 1 << 20
# A complex number of two doubles has 50.
_MOST_DIGITS = 200


def count_int16(path: str | Path) -> int:
    """Return how many whole numbers of 16 bits a file of samples holds.

    Args:
        path: The file.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it is empty or ends within a number; names it.
    """
    path = existing_file(path, what=_WHAT)
    size = path.stat().st_size
    # What is saved in place of a file is short; a long one may begin with anything.
    mistaken = describe_mistaken_file(path) if size < _SHORT_BYTES else None
    if mistaken:
        raise DataError(f"{_WHAT} {path} {mistaken}")
    if size % _INT16.itemsize:
        raise DataError(f"{_WHAT} {unreadable(path, f'not of 16-bit numbers (it has {size} bytes)')}")
    return size // _INT16.itemsize


def iter_int16(path: str | Path, num_each: int) -> Iterator[np.ndarray]:
    """Read a file of little-endian whole numbers of 16 bits, such as raw samples of an ADC, in blocks.

    Args:
        path: The file.
        num_each: Numbers in a block; the last one may have fewer.

    Yields:
        Numbers, shape ``(num_each,)``, int16.

    Raises:
        DataError: If the file shrinks while it is read; names it.
    """
    left = count_int16(path)
    with Path(path).open("rb") as file:
        while left > 0:
            num = min(num_each, left)
            content = file.read(num * _INT16.itemsize)
            if len(content) < num * _INT16.itemsize:
                raise DataError(f"{_WHAT} {path} became shorter while it was read; wait until it is complete")
            yield np.frombuffer(content, _INT16)
            left -= num


def read_complex_text(path: str | Path, num_header: int) -> tuple[tuple[float, ...], np.ndarray]:
    """Read a text file of numbers, each on its line: a header of real ones, then complex samples such as ``-3+12i``.

    Args:
        path: The file.
        num_header: Real numbers at the beginning.

    Returns:
        The header, and the samples, shape ``(N,)``, complex64.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it is no such text, holds NaN or infinity, or no samples; names the file and the place.
    """
    path = existing_file(path, what=_WHAT)
    header: list[float] = []
    blocks: list[np.ndarray] = []
    done = 0
    try:
        for words in _iter_words(path):
            numbers = np.array([complex(word) for word in words], dtype=np.complex64)
            if not np.isfinite(numbers).all():
                place = done + int(np.flatnonzero(~np.isfinite(numbers))[0]) + 1
                raise DataError(f"{_WHAT} {path}: number {place} is not finite; mend or remove the file")
            # Carriers need more digits than float32 has.
            header += [float(word) for word in words[: max(0, num_header - done)]]
            blocks.append(numbers[max(0, num_header - done) :])
            done += len(words)
    except (ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{_WHAT} {unreadable(path, f'no text of complex numbers ({_shorten(error)})')}") from None
    if done <= num_header:
        raise DataError(f"{_WHAT} {unreadable(path, f'has no samples behind the {num_header} numbers of its header')}")
    return tuple(header), np.concatenate(blocks)


def write_int16(path: str | Path, blocks: Iterator[np.ndarray]) -> None:
    """Write whole numbers, rounded and clipped to 16 bits, to a file of raw samples, atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for block in blocks:
            limits = np.iinfo(_INT16)
            file.write(np.clip(np.round(block), limits.min, limits.max).astype(_INT16).tobytes())


def write_complex_text(path: str | Path, header: tuple[float, ...], blocks: Iterator[np.ndarray]) -> None:
    """Write a header and complex samples, rounded to whole numbers, to a text file, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="ascii") as file:
        file.writelines(f"{number:.10g}\n" for number in header)
        for block in blocks:
            parts = np.stack([block.real, block.imag], axis=-1).reshape(-1, 2).round().astype(int).tolist()
            file.writelines(f"{real}{imaginary:+d}i\n" for real, imaginary in parts)


def _iter_words(path: Path) -> Iterator[list[str]]:
    """Yield the words of a text file in blocks; ValueError if it is no ASCII or a word is longer than a number."""
    rest = ""
    with path.open(encoding="ascii") as file:
        while block := file.read(_BLOCK_CHARACTERS):
            # Python writes the imaginary unit as engineers do.
            words = (rest + block.replace("i", "j")).split()
            # The last word may go on in the next block.
            rest = words.pop() if words and not block[-1].isspace() else ""
            if max(len(rest), *map(len, words), 0) > _MOST_DIGITS:
                raise ValueError("a number of more than 200 letters")
            yield words
    if rest:
        yield [rest]


def _shorten(error: Exception) -> str:
    text = " ".join(str(error).split(os.linesep))
    return text if len(text) < 100 else f"{text[:100]}..."
