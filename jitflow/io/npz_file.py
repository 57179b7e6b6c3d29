"""Read untrusted ``.npz`` files: plain arrays only, and no more memory than the file's size justifies."""

from __future__ import annotations

import math
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from jitflow.errors import ConfigError
from jitflow.io.files import existing_file
from jitflow.io.mistaken_file import unreadable

# Errors that a damaged file can cause: numpy parses headers as Python.
_DAMAGED = (
    ValueError,
    TypeError,
    OSError,
    EOFError,
    KeyError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
# Bytes of the arrays of a file that are read at once, besides its own size: covariances of 4096 features and more.
_SPARE_BYTES = 400_000_000
_MOST_HEADER_BYTES = 10_000
MAX_DEFLATE_RATIO = 1032
"""Largest expansion of the deflate format: bytes from one compressed byte."""
_HEADERS: dict[tuple[int, int], Callable[[IO[bytes]], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}
# Bytes that hold the length of a header.
_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4}


def read_npz(
    path: str | Path, names: Sequence[str] | None = None, *, what: str = "file", leave_out: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Read arrays of an ``.npz`` file.

    Every size in a header is checked against the archive before memory is allocated; object arrays, which could run
    code, are refused.

    Args:
        path: The file.
        names: The arrays to read, if present; all by default.
        what: What the file is, for messages.
        leave_out: Arrays to skip.

    Returns:
        The arrays by name.

    Raises:
        MissingFileError: If there is no such file.
        ConfigError: If it is damaged, holds objects, or is not an ``.npz``.
    """
    path = existing_file(path, what=what)
    try:
        with path.open("rb") as file:
            if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                raise ConfigError(f"{what} {path} holds a single array; it must be an .npz")
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = [name for name in members if (names is None or name in names) and name not in leave_out]
            total = sum(members[name].file_size for name in wanted)
            if total > size + _SPARE_BYTES:
                raise ConfigError(f"{what} {path} unpacks to {total / 1e9:.3g} GB, too much for {size:,} bytes")
            return {name: _read_member(archive, members[name]) for name in wanted}
    except ConfigError:
        raise
    except _DAMAGED as error:
        raise ConfigError(f"{what} {unreadable(path, f'not an .npz ({error})')}") from None


def iter_npz_rows(path: str | Path, name: str, num_rows: int, *, what: str = "file") -> Iterator[np.ndarray]:
    """Yield an array of an ``.npz`` in pieces along its first dimension; it may exceed the memory.

    Args:
        path: The file.
        name: The array.
        num_rows: Rows of a piece; the last one may have fewer.
        what: What the file is, for messages.

    Yields:
        Pieces in order.

    Raises:
        MissingFileError: If there is no such file.
        ConfigError: If it is damaged, holds objects, or has no such array.
    """
    path = existing_file(path, what=what)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if name not in members:
                raise ConfigError(f"{what} {path} has no array {name}; it holds {', '.join(members) or 'nothing'}")
            shape, dtype = _check_member(archive, members[name])
            with archive.open(members[name]) as member:
                if _HEADERS[npy.read_magic(member)](member)[1]:
                    raise ValueError(f"{name} is stored column by column")
                if num_rows * math.prod(shape[1:]) * dtype.itemsize > path.stat().st_size + _SPARE_BYTES:
                    raise ConfigError(f"{what} {path}: a row of {name} has {math.prod(shape[1:]):,} numbers, too many")
                for start in range(0, shape[0] if shape else 0, num_rows):
                    rows = (min(num_rows, shape[0] - start), *shape[1:])
                    content = member.read(math.prod(rows) * dtype.itemsize)
                    yield np.frombuffer(content, dtype).reshape(rows)
    except ConfigError:
        raise
    except _DAMAGED as error:
        raise ConfigError(f"{what} {unreadable(path, f'not an .npz ({error})')}") from None


def npz_names(path: str | Path, *, what: str = "file") -> list[str]:
    """Return the names of a file's arrays, without reading them; raises as :func:`read_npz`."""
    path = existing_file(path, what=what)
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except _DAMAGED as error:
        raise ConfigError(f"{what} {unreadable(path, f'not an .npz ({error})')}") from None


def npz_entries(path: str | Path, *, what: str = "file") -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return the shape and type of each array of a file, without reading values; raises as :func:`read_npz`."""
    path = existing_file(path, what=what)
    try:
        with zipfile.ZipFile(path) as archive:
            return {info.filename.removesuffix(".npy"): _check_member(archive, info) for info in archive.infolist()}
    except _DAMAGED as error:
        raise ConfigError(f"{what} {unreadable(path, f'not an .npz ({error})')}") from None


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an array in NumPy's format; raise ValueError if its version is unknown or it holds objects.

    Args:
        file: The file, at its beginning; afterwards at the first value.

    Returns:
        Shape, whether the values are stored column by column, and type.
    """
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"the unknown version {version}")
    length = int.from_bytes(file.read(_LENGTH_BYTES[version]), "little")
    if length > _MOST_HEADER_BYTES:
        raise ValueError(f"a header of {length:,} bytes")
    file.seek(len(npy.MAGIC_PREFIX) + 2)
    shape, by_column, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("it holds objects")
    return shape, by_column, dtype


def _check_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return an array's shape and type; ValueError if it declares more than the archive holds, or holds objects."""
    with archive.open(info) as member:
        try:
            shape, _, dtype = read_npy_header(member)
        except ValueError as error:
            raise ValueError(f"{info.filename}: {error}") from None
        num_bytes = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or num_bytes > info.file_size:
            raise ValueError(f"{info.filename} declares {num_bytes} bytes but has {info.file_size}")
    return shape, dtype


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    _, dtype = _check_member(archive, info)
    with archive.open(info) as member:
        array = np.asarray(npy.read_array(member, allow_pickle=False))
    if dtype.kind == "U" and array.nbytes:
        # Converting an invalid code point to str can crash the interpreter.
        characters = np.ascontiguousarray(array).reshape(-1).view(np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if characters.max() > sys.maxunicode:
            raise ValueError(f"{info.filename} holds text with invalid characters")
    return array
