"""Named arrays larger than memory in one ``.safetensors`` file, mapped rather than read.

The file is created at full size under a temporary name, filled in any order by any number of processes, and renamed
once it is complete. Any reader of safetensors can open it.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jitflow.errors import ConfigError, DataError
from jitflow.io.files import existing_file
from jitflow.io.json_text import parse_json
from jitflow.io.mistaken_file import describe_mistaken_file
from jitflow.io.torch_file import MOST_DIMENSIONS

Layout = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape and type of each array by name, such as ``{"labels": ((100,), "int64")}``."""

# safetensors' names of types; the file is little-endian.
_CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
}
_TYPES = {code: np.dtype(name).newbyteorder("<") for name, code in _CODES.items()}
# The safetensors library's own limit.
_MAX_HEADER_BYTES = 100_000_000
_PART = ".part"


@dataclass(frozen=True)
class _ArrayEntry:
    """Type code and shape of an array, and its range of bytes counted from the end of the header."""

    code: str
    shape: tuple[int, ...]
    begin: int
    end: int


def part_path(path: str | Path) -> Path:
    """Return the temporary name of an array file that is not complete yet."""
    path = Path(path)
    return path.with_name(path.name + _PART)


class ArrayFileWriter:
    """An array file that is being filled; make one with :meth:`create` or :meth:`reopen`.

    Attributes:
        path: Final name of the file.
        arrays: The arrays by name, mapped for reading and writing; zeros where nothing was written.
        metadata: Text entries stored in the file's header.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._part = part_path(path)
        self._entries, self.metadata, self._data_start = _read_header(self._part)
        self.arrays: dict[str, np.ndarray] = _map_arrays(self._part, self._entries, self._data_start, "r+")

    @classmethod
    def create(
        cls,
        path: str | Path,
        arrays: Layout,
        metadata: Mapping[str, str] | None = None,
        *,
        header_bytes: int = 65536,
    ) -> ArrayFileWriter:
        """Create the array file ``<path>.part`` at its full size, replacing an older one.

        Args:
            path: Final name of the file; a file of this name stays untouched until :meth:`finish`.
            arrays: Shape and type of each array.
            metadata: Text entries for the header; :meth:`finish` can replace them.
            header_bytes: Bytes reserved for names, shapes and metadata.

        Returns:
            The writer.

        Raises:
            ConfigError: If a type is unknown, the header does not fit, or the disk is full.
        """
        entries = _assign_offsets(arrays)
        header = _encode_header(entries, metadata or {}, header_bytes, path)
        part = part_path(path)
        part.parent.mkdir(parents=True, exist_ok=True)
        size = header_bytes + max((entry.end for entry in entries.values()), default=0)
        part.unlink(missing_ok=True)
        try:
            with part.open("xb") as file:
                _reserve(file.fileno(), size)
                # The header comes last, so that a file without its full size never looks resumable.
                file.write(header)
        except OSError as error:
            part.unlink(missing_ok=True)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise ConfigError(
                f"{path} needs {size / 1e9:.3g} GB of disk space; free some or choose another folder"
            ) from None
        return cls(path)

    @classmethod
    def reopen(cls, path: str | Path, arrays: Layout | None = None) -> ArrayFileWriter:
        """Reopen an unfinished array file, possibly another process's.

        Args:
            path: Final name of the file.
            arrays: The arrays that it must hold; None accepts any.

        Returns:
            The writer; its arrays hold what was written before.

        Raises:
            MissingFileError: If there is no ``<path>.part``.
            DataError: If it is damaged or holds other arrays.
        """
        existing_file(part_path(path), what="unfinished file")
        writer = cls(path)
        if arrays is not None:
            found = {name: (entry.shape, entry.code) for name, entry in writer._entries.items()}
            expected = {name: (entry.shape, entry.code) for name, entry in _assign_offsets(arrays).items()}
            if found != expected:
                raise DataError(
                    f"{writer._part} holds {_describe(found)} instead of {_describe(expected)}; remove it to restart"
                )
        return writer

    def flush(self) -> None:
        """Flush the arrays to disk, so that they survive a crash of the machine."""
        for array in self.arrays.values():
            if isinstance(array, np.memmap):
                array.flush()

    def finish(self, metadata: Mapping[str, str] | None = None) -> Path:
        """Flush the arrays to disk and rename the file to its final name; the writer cannot be used afterwards.

        Args:
            metadata: Replaces the metadata given before; None keeps it.

        Returns:
            The file.

        Raises:
            ConfigError: If the metadata does not fit into the reserved header.
        """
        if metadata is not None:
            header = _encode_header(self._entries, metadata, self._data_start, self.path)
            self.metadata = dict(metadata)
        else:
            header = _encode_header(self._entries, self.metadata, self._data_start, self.path)
        self.flush()
        with self._part.open("rb+") as file:
            file.write(header)
            file.flush()
            os.fsync(file.fileno())
        self.arrays = {}
        self._part.replace(self.path)
        return self.path

    def abandon(self) -> None:
        """Remove the unfinished file; the writer cannot be used afterwards."""
        self.arrays = {}
        self._part.unlink(missing_ok=True)


def open_arrays(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Map the arrays of a safetensors file without reading them.

    Args:
        path: The file.

    Returns:
        The arrays by name, read-only, and the file's metadata.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it is not a safetensors file, damaged, truncated, or holds a type that numpy lacks.
    """
    path = existing_file(path)
    entries, metadata, data_start = _read_header(path)
    return _map_arrays(path, entries, data_start, "r"), metadata


def _map_arrays(
    path: Path, entries: Mapping[str, _ArrayEntry], data_start: int, mode: Literal["r", "r+"]
) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, entry in entries.items():
        dtype = _TYPES[entry.code]
        if entry.begin == entry.end:
            # An empty range cannot be mapped.
            arrays[name] = np.empty(entry.shape, dtype)
        else:
            offset = data_start + entry.begin
            arrays[name] = np.memmap(path, dtype, mode, offset=offset, shape=entry.shape)
    return arrays


def _assign_offsets(arrays: Layout) -> dict[str, _ArrayEntry]:
    """Assign each array a range of bytes, wide types first, so that every array is aligned."""
    for name, (shape, dtype) in arrays.items():
        if dtype not in _CODES:
            raise ConfigError(f"array {name!r} has the unknown type {dtype!r}; known: {', '.join(_CODES)}")
        if any(side < 0 for side in shape):
            raise ConfigError(f"array {name!r} has the shape {tuple(shape)}; no dimension may be negative")
    entries, begin = {}, 0
    for name, (shape, dtype) in sorted(arrays.items(), key=lambda item: (-np.dtype(item[1][1]).itemsize, item[0])):
        end = begin + math.prod(shape) * np.dtype(dtype).itemsize
        entries[name] = _ArrayEntry(_CODES[dtype], tuple(int(side) for side in shape), begin, end)
        begin = end
    return entries


def _encode_header(
    entries: Mapping[str, _ArrayEntry], metadata: Mapping[str, str], size: int, path: str | Path
) -> bytes:
    """Encode the first ``size`` bytes of the file: the JSON header's length, and the header padded with spaces."""
    content: dict[str, Any] = {"__metadata__": dict(metadata)}
    for name, entry in entries.items():
        content[name] = {
            "dtype": entry.code,
            "shape": list(entry.shape),
            "data_offsets": [entry.begin, entry.end],
        }
    text = json.dumps(content).encode()
    room = size - 8
    if len(text) > room or size % 8:
        raise ConfigError(
            f"the header of {path} needs {len(text) + 8} bytes but has {size}; raise header_bytes, a multiple of 8"
        )
    return room.to_bytes(8, "little") + text.ljust(room)


def _reserve(descriptor: int, size: int) -> None:
    """Allocate the disk space now, so that no write to the mapped file can fail for lack of it."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
    os.ftruncate(descriptor, size)


def _read_header(path: Path) -> tuple[dict[str, _ArrayEntry], dict[str, str], int]:
    """Read the array entries, the metadata and the header's size, validated against the size of the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        room = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= room <= min(size - 8, _MAX_HEADER_BYTES):
            mistaken = describe_mistaken_file(path) or "is not a safetensors file, or it was truncated"
            raise DataError(f"{path} {mistaken}")
        text = file.read(room)
    try:
        content = parse_json(text.decode("utf-8"))
        metadata = {str(word): str(value) for word, value in content.pop("__metadata__", {}).items()}
        entries = {name: _parse_entry(entry) for name, entry in content.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DataError(f"{path} is not a safetensors file, or its header is damaged") from None
    for name, entry in entries.items():
        if entry.code not in _TYPES:
            raise DataError(f"{path}: {name!r} has the type {entry.code}, which cannot be mapped")
        if entry.end - entry.begin != math.prod(entry.shape) * _TYPES[entry.code].itemsize:
            raise DataError(f"{path} is damaged: the bytes of {name!r} do not match its shape {entry.shape}")
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            raise DataError(f"{path} is damaged: {name!r} does not begin where the array before it ends")
        end = entry.end
    if end != size - 8 - room:
        raise DataError(f"{path} is damaged: it should have {8 + room + end} bytes and has {size}; write it again")
    return entries, metadata, 8 + room


def _parse_entry(entry: Any) -> _ArrayEntry:
    begin, end = entry["data_offsets"]
    numbers = [*entry["shape"], begin, end]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(numbers)
    if len(entry["shape"]) > MOST_DIMENSIONS:
        raise ValueError(entry["shape"])
    return _ArrayEntry(str(entry["dtype"]), tuple(entry["shape"]), begin, end)


def _describe(found: Mapping[str, tuple[tuple[int, ...], str]]) -> str:
    return (
        ", ".join(f"{name} {shape} {_TYPES[code].name}" for name, (shape, code) in sorted(found.items())) or "nothing"
    )
