"""Reading ``.npz`` files of strangers: plain arrays only, and no more memory than the file can fill."""

from __future__ import annotations

import math
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from jitflow.errors import ConfigError
from jitflow.io.files import existing_file

# What damaged files end in: numpy parses their headers as Python.
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
# No deflated byte makes more bytes than this.
_MOST_PER_BYTE = 1032
_HEADERS: dict[tuple[int, int], Callable[[IO[bytes]], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


def read_npz(
    path: str | Path, names: Sequence[str] | None = None, *, what: str = "file", leave_out: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Read arrays of an ``.npz`` file.

    Every size in a header is compared with what the archive holds before an array is made; arrays of objects, which
    could run code, are refused.

    Args:
        path: The file.
        names: The arrays to read, those that there are; all by default.
        what: What the file is, for messages.
        leave_out: Arrays not to read.

    Returns:
        The arrays by name.

    Raises:
        MissingFileError: If there is no such file.
        ConfigError: If it is damaged, holds objects, or is no ``.npz``.
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
            return {name: _read_member(archive, members[name], size) for name in wanted}
    except ConfigError:
        raise
    except _DAMAGED as error:
        raise ConfigError(f"{what} {path} cannot be read; it is damaged or no .npz ({error})") from None


def npz_names(path: str | Path, *, what: str = "file") -> list[str]:
    """Return the names of a file's arrays, without reading them; raises as :func:`read_npz`."""
    path = existing_file(path, what=what)
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except _DAMAGED as error:
        raise ConfigError(f"{what} {path} cannot be read; it is damaged or no .npz ({error})") from None


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, archive_bytes: int) -> np.ndarray:
    if info.compress_size > archive_bytes or info.file_size > _MOST_PER_BYTE * max(info.compress_size, 1):
        raise ValueError(f"{info.filename} claims more bytes than the file can hold")
    with archive.open(info) as member:
        version = npy.read_magic(member)
        if version not in _HEADERS:
            raise ValueError(f"{info.filename} has the unknown version {version}")
        shape, _, dtype = _HEADERS[version](member)
        if dtype.hasobject:
            raise ValueError(f"{info.filename} holds objects")
        num_bytes = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or num_bytes > info.file_size:
            raise ValueError(f"{info.filename} claims {num_bytes} bytes and has {info.file_size}")
    with archive.open(info) as member:
        array = np.asarray(npy.read_array(member, allow_pickle=False))
    if dtype.kind == "U" and array.size:
        # Making a str of a number that is no character is an error of the interpreter itself.
        characters = np.frombuffer(array.tobytes(), np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if characters.max() > sys.maxunicode:
            raise ValueError(f"{info.filename} holds words that are no text")
    return array
