"""Read numeric arrays from MATLAB's ``.mat`` files of versions 5 to 7, without trust in what they declare.

SciPy's reader ends the process (a segmentation fault, SciPy 1.17) on some damaged files, so this one checks every
length against the bytes that are there.

References:
    MathWorks, "MAT-File Format", Level 5.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from jitflow.io.npz_file import MAX_DEFLATE_RATIO

_HEADER_BYTES = 128
# Types of stored numbers, and classes of arrays; those that are not numbers have other codes.
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_COMPLEX = 0x0800
# Flags, dimensions and name of an array lie within these.
_DESCRIPTION_BYTES = 4096


@dataclass(frozen=True)
class MatlabArray:
    """An array of numbers in a ``.mat`` file.

    Attributes:
        shape: Its shape.
        dtype: Its type; stored numbers may be narrower.
        begin: Position of its bytes in the file, after the tag.
        num_bytes: Their number.
        is_compressed: Whether they are compressed.
        order: ``<`` or ``>``.
        values_at: Position of the tag of its values in the (decompressed) bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    begin: int
    num_bytes: int
    is_compressed: bool
    order: str
    values_at: int


def list_matlab_arrays(path: Path) -> dict[str, MatlabArray]:
    """List the arrays of numbers in a ``.mat`` file of version 5 to 7 by name; others are left out.

    Args:
        path: The file.

    Raises:
        ValueError: If it is damaged, or of another version.
    """
    size = path.stat().st_size
    found: dict[str, MatlabArray] = {}
    with path.open("rb") as file:
        mark = file.read(_HEADER_BYTES)[124:]
        order = {b"\0\1IM": "<", b"\1\0MI": ">"}.get(mark)
        if order is None:
            raise ValueError("it is not of version 5 to 7; save it with -v7 or -v7.3")
        position = _HEADER_BYTES
        while position + 8 <= size:
            file.seek(position)
            kind, num_bytes = struct.unpack(f"{order}2I", file.read(8))
            if num_bytes > size - position - 8:
                raise ValueError("it is truncated")
            if kind in (_MATRIX, _COMPRESSED):
                place = (position + 8, num_bytes, kind == _COMPRESSED, order)
                described = _describe(_read(file, *place[:3], _DESCRIPTION_BYTES), place)
                if described is not None:
                    found[described[0]] = described[1]
            position += 8 + num_bytes
    return found


def read_matlab_array(path: Path, array: MatlabArray) -> np.ndarray:
    """Read the values of an array of a ``.mat`` file.

    Args:
        path: The file.
        array: The array, as :func:`list_matlab_arrays` found it.

    Returns:
        The array; only the real part of a complex one is stored here, whose type says that it is complex.

    Raises:
        ValueError: If it is damaged.
    """
    with path.open("rb") as file:
        place = (array.begin, array.num_bytes, array.is_compressed)
        start = _read(file, *place, array.values_at + 8)
        kind, begin, num_bytes = _tag(start, array.values_at, array.order)
        if kind not in _TYPES or num_bytes != math.prod(array.shape) * np.dtype(_TYPES[kind]).itemsize:
            raise ValueError("the bytes of an array do not match its shape")
        available = array.num_bytes * (MAX_DEFLATE_RATIO if array.is_compressed else 1)
        if num_bytes > available:
            raise ValueError(f"it declares {num_bytes} bytes and can hold {available}")
        content = _read(file, *place, begin + num_bytes)
    if len(content) < begin + num_bytes:
        raise ValueError("it is truncated")
    values = np.frombuffer(content, f"{array.order}{_TYPES[kind]}", math.prod(array.shape), begin)
    return np.asarray(values.reshape(array.shape, order="F").astype(array.dtype))


def _describe(content: bytes, place: tuple[int, int, bool, str]) -> tuple[str, MatlabArray] | None:
    """Read the name and the description of an array; None for one that holds no numbers."""
    order = place[3]
    _, begin, num_bytes = _tag(content, 0, order)
    if num_bytes < 8 or begin + 8 > len(content):
        raise ValueError("the flags of an array are missing")
    (flags,) = struct.unpack_from(f"{order}I", content, begin)
    if flags & 0xFF not in _CLASSES:
        return None
    _, begin, num_bytes = _tag(content, _next(begin, num_bytes), order)
    if begin + num_bytes > len(content) or num_bytes % 4:
        raise ValueError("the dimensions of an array are damaged")
    shape = struct.unpack_from(f"{order}{num_bytes // 4}i", content, begin)
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError("the dimensions of an array are damaged")
    _, begin, num_bytes = _tag(content, _next(begin, num_bytes), order)
    if begin + num_bytes > len(content):
        raise ValueError("the name of an array is damaged")
    name = content[begin : begin + num_bytes].decode("ascii", "replace")
    dtype = np.dtype("c16" if flags & _COMPLEX else _CLASSES[flags & 0xFF])
    return name, MatlabArray(shape, dtype, *place, _next(begin, num_bytes))


def _tag(content: bytes, at: int, order: str) -> tuple[int, int, int]:
    """Return the type of an element, the position of its bytes, and their number."""
    if at + 8 > len(content):
        raise ValueError("it is truncated")
    kind, num_bytes = struct.unpack_from(f"{order}2I", content, at)
    if kind >> 16:
        # A small element has its bytes in the tag.
        if kind >> 16 > 4:
            raise ValueError("a small element is too large")
        return kind & 0xFFFF, at + 4, kind >> 16
    return kind, at + 8, num_bytes


def _next(begin: int, num_bytes: int) -> int:
    """Return the position of the next element: they begin at multiples of eight."""
    return -(-(begin + num_bytes) // 8) * 8


def _read(file: IO[bytes], begin: int, num_bytes: int, is_compressed: bool, most: int) -> bytes:
    """Read at most ``most`` bytes of an array, after the tag that compressed ones have inside."""
    file.seek(begin)
    if not is_compressed:
        return file.read(min(num_bytes, most))
    content = zlib.decompressobj().decompress(file.read(num_bytes), most + 8)
    return content[8:]
