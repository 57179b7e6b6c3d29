"""Named arrays larger than memory in one ``.safetensors`` file, mapped rather than read.

The file is made at its full size under another name, filled in any order and by any number of processes, and takes
its name when it is whole. Any reader of safetensors can open it.
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

Layout = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape and type of each array by name, such as ``{"labels": ((100,), "int64")}``."""

# safetensors' names; numbers lie in the file with the lowest byte first.
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
# What the safetensors library accepts at most.
_MAX_HEADER_BYTES = 100_000_000
_PART = ".part"


@dataclass(frozen=True)
class _Place:
    """Where an array lies: its type's code, its shape, and its bytes counted from the end of the header."""

    code: str
    shape: tuple[int, ...]
    begin: int
    end: int


def part_path(path: str | Path) -> Path:
    """Name that a file has while it is being filled."""
    path = Path(path)
    return path.with_name(path.name + _PART)


class ArrayFileWriter:
    """An array file that is being filled; make one with :meth:`create` or :meth:`reopen`.

    Attributes:
        path: Name of the file once it is whole.
        arrays: The arrays by name, mapped for reading and writing; zeros where nothing was written.
        metadata: Words that the file holds about itself.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._part = part_path(path)
        self._places, self.metadata, self._data_start = _read_header(self._part)
        self.arrays: dict[str, np.ndarray] = _map(self._part, self._places, self._data_start, "r+")

    @classmethod
    def create(
        cls,
        path: str | Path,
        arrays: Layout,
        metadata: Mapping[str, str] | None = None,
        *,
        header_bytes: int = 65536,
    ) -> ArrayFileWriter:
        """Make ``<path>.part`` at its full size, in place of an older one.

        Args:
            path: Name of the file once it is whole; it is not touched before.
            arrays: Shape and type of each array.
            metadata: Words about the content; :meth:`finish` can replace them.
            header_bytes: Room for names, shapes and metadata.

        Returns:
            The writer.

        Raises:
            ConfigError: If a type is unknown, the header has too little room, or the disk too little space.
        """
        places = _lay_out(arrays)
        header = _header(places, metadata or {}, header_bytes, path)
        part = part_path(path)
        part.parent.mkdir(parents=True, exist_ok=True)
        size = header_bytes + max((place.end for place in places.values()), default=0)
        part.unlink(missing_ok=True)
        try:
            with part.open("xb") as file:
                _reserve(file.fileno(), size)
                # Last, so that a file without its full size never looks like one that can be continued.
                file.write(header)
        except OSError as error:
            part.unlink(missing_ok=True)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise ConfigError(
                f"{path} needs {size / 1e9:.3g} GB and there is not so much room; free some or choose another folder"
            ) from None
        return cls(path)

    @classmethod
    def reopen(cls, path: str | Path, arrays: Layout | None = None) -> ArrayFileWriter:
        """Continue a file that was created and not finished, possibly by another process.

        Args:
            path: Name of the file once it is whole.
            arrays: What it has to hold; None for whatever it holds.

        Returns:
            The writer; what was written is still in its arrays.

        Raises:
            MissingFileError: If there is no ``<path>.part``.
            DataError: If it is damaged or holds other arrays.
        """
        existing_file(part_path(path), what="unfinished file")
        writer = cls(path)
        if arrays is not None:
            found = {name: (place.shape, place.code) for name, place in writer._places.items()}
            expected = {name: (place.shape, place.code) for name, place in _lay_out(arrays).items()}
            if found != expected:
                raise DataError(
                    f"{writer._part} holds {_describe(found)} instead of {_describe(expected)}; remove it to start anew"
                )
        return writer

    def flush(self) -> None:
        """Bring what was written to the disk, so that it outlives a crash of the machine."""
        for array in self.arrays.values():
            if isinstance(array, np.memmap):
                array.flush()

    def finish(self, metadata: Mapping[str, str] | None = None) -> Path:
        """Write everything to the disk and give the file its name; the writer cannot be used afterwards.

        Args:
            metadata: Words about the content in place of those given before; None keeps them.

        Returns:
            The file.

        Raises:
            ConfigError: If the metadata does not fit into the room of the header.
        """
        if metadata is not None:
            header = _header(self._places, metadata, self._data_start, self.path)
            self.metadata = dict(metadata)
        else:
            header = _header(self._places, self.metadata, self._data_start, self.path)
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
        DataError: If it is no safetensors file, damaged, cut short, or holds numbers that numpy has no type for.
    """
    path = existing_file(path)
    places, metadata, data_start = _read_header(path)
    return _map(path, places, data_start, "r"), metadata


def _map(path: Path, places: Mapping[str, _Place], data_start: int, mode: Literal["r", "r+"]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, place in places.items():
        dtype = _TYPES[place.code]
        if place.begin == place.end:
            # Nothing cannot be mapped.
            arrays[name] = np.empty(place.shape, dtype)
        else:
            offset = data_start + place.begin
            arrays[name] = np.memmap(path, dtype, mode, offset=offset, shape=place.shape)
    return arrays


def _lay_out(arrays: Layout) -> dict[str, _Place]:
    """Put the arrays one after another, wide types first, so that every one is aligned."""
    for name, (shape, dtype) in arrays.items():
        if dtype not in _CODES:
            raise ConfigError(f"array {name!r} has the type {dtype!r}; known: {', '.join(_CODES)}")
        if any(side < 0 for side in shape):
            raise ConfigError(f"array {name!r} has the shape {tuple(shape)}; no side can be negative")
    places, begin = {}, 0
    for name, (shape, dtype) in sorted(arrays.items(), key=lambda item: (-np.dtype(item[1][1]).itemsize, item[0])):
        end = begin + math.prod(shape) * np.dtype(dtype).itemsize
        places[name] = _Place(_CODES[dtype], tuple(int(side) for side in shape), begin, end)
        begin = end
    return places


def _header(places: Mapping[str, _Place], metadata: Mapping[str, str], size: int, path: str | Path) -> bytes:
    """The first ``size`` bytes of the file: the length of a JSON text, and the text, filled up with spaces."""
    content: dict[str, Any] = {"__metadata__": dict(metadata)}
    for name, place in places.items():
        content[name] = {
            "dtype": place.code,
            "shape": list(place.shape),
            "data_offsets": [place.begin, place.end],
        }
    text = json.dumps(content).encode()
    room = size - 8
    if len(text) > room or size % 8:
        raise ConfigError(
            f"the header of {path} needs {len(text) + 8} bytes and has {size}; give it more, a multiple of 8"
        )
    return room.to_bytes(8, "little") + text.ljust(room)


def _reserve(descriptor: int, size: int) -> None:
    """Take the room on the disk now, so that no write into the mapping finds it full."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
    os.ftruncate(descriptor, size)


def _read_header(path: Path) -> tuple[dict[str, _Place], dict[str, str], int]:
    """Where each array lies, the metadata, and the size of the header; everything checked against the file's size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        room = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= room <= min(size - 8, _MAX_HEADER_BYTES):
            raise DataError(f"{path} is no safetensors file, or it was cut short")
        text = file.read(room)
    try:
        content = json.loads(text)
        metadata = {str(word): str(value) for word, value in content.pop("__metadata__", {}).items()}
        places = {name: _place(entry) for name, entry in content.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise DataError(f"{path} is no safetensors file, or its header is damaged") from None
    for name, place in places.items():
        if place.code not in _TYPES:
            raise DataError(f"{path}: {name!r} has the type {place.code}, which cannot be mapped")
        if place.end - place.begin != math.prod(place.shape) * _TYPES[place.code].itemsize:
            raise DataError(f"{path} is damaged: the place of {name!r} does not fit its shape {place.shape}")
    end = 0
    for name, place in sorted(places.items(), key=lambda item: (item[1].begin, item[1].end)):
        if place.begin != end:
            raise DataError(f"{path} is damaged: {name!r} does not begin where the array before it ends")
        end = place.end
    if end != size - 8 - room:
        raise DataError(f"{path} is damaged: it should have {8 + room + end} bytes and has {size}; write it again")
    return places, metadata, 8 + room


def _place(entry: Any) -> _Place:
    begin, end = entry["data_offsets"]
    numbers = [*entry["shape"], begin, end]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(numbers)
    return _Place(str(entry["dtype"]), tuple(entry["shape"]), begin, end)


def _describe(found: Mapping[str, tuple[tuple[int, ...], str]]) -> str:
    return (
        ", ".join(f"{name} {shape} {_TYPES[code].name}" for name, (shape, code) in sorted(found.items())) or "nothing"
    )
