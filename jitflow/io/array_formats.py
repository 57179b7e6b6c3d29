"""Read numeric arrays from untrusted files: NumPy's ``.npy`` and ``.npz``, HDF5, MATLAB's ``.mat`` and TIFF.

Every format's header is compared with the size of the file before memory is allocated, and nothing that could run code
(pickled objects) or lead to other files (external links) is followed.
"""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jitflow.errors import ConfigError, DataError, JitflowError
from jitflow.io.files import existing_file
from jitflow.io.hdf5_file import list_hdf5_arrays, read_hdf5_array
from jitflow.io.matlab_file import list_matlab_arrays, read_matlab_array
from jitflow.io.mistaken_file import unreadable
from jitflow.io.npz_file import MAX_DEFLATE_RATIO, npz_entries, read_npy_header, read_npz

ARRAY_SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".mat")
"""Suffixes of files that hold arrays and nothing else; a TIFF can also be a picture."""
TIFF_SUFFIXES = (".tif", ".tiff")

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
# MATLAB's text stands before the HDF5 part of its files.
_MATLAB_TEXT_BYTES = 512
# Types of the pixels of a TIFF by Pillow's mode; other modes are pictures.
_TIFF_TYPES = {"F": "float32", "I": "int32", "I;16": "uint16", "I;16B": "uint16", "L": "uint8"}
# Errors that a damaged file causes in the libraries that read it.
_DAMAGED = (
    *(OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, SyntaxError, MemoryError),
    *(RuntimeError, OverflowError, NotImplementedError, struct.error, zlib.error, zipfile.BadZipFile),
    *(tokenize.TokenError, Image.DecompressionBombError),
)


@dataclass(frozen=True)
class NamedArrays:
    """Arrays of an opened file: shapes and types are known, values are read on demand.

    Attributes:
        entries: Shape and type of each array by name; the only array of a ``.npy`` or TIFF has the name ``""``.
        read: Read an array by its name.
    """

    entries: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
    read: Callable[[str], np.ndarray]


@contextmanager
def open_array_file(path: str | Path) -> Iterator[NamedArrays]:
    """Open a file of numeric arrays in any of the formats.

    Args:
        path: The file; its suffix says the format.

    Yields:
        The arrays, to be read inside the ``with`` block.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it is damaged, holds objects, or declares more than it can hold; the message names it.
        ConfigError: If the package that reads the format is not installed.
    """
    path = existing_file(path, what="array file")
    suffix = path.suffix.lower()
    openers = {".npy": _open_npy, ".npz": _open_npz, ".mat": _open_mat}
    openers |= dict.fromkeys((".h5", ".hdf5"), _open_hdf5) | dict.fromkeys(TIFF_SUFFIXES, _open_tiff)
    if suffix not in openers:
        raise DataError(f"{path} is no file of arrays ({', '.join(openers)}); convert it to one of these")
    try:
        with openers[suffix](path) as arrays:
            yield arrays
    except ConfigError as error:
        # A reader of settings calls a damaged archive a wrong setting; here it is data.
        raise DataError(str(error)) if suffix == ".npz" else error from None
    except JitflowError:
        raise
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(unreadable(path, f"no {suffix} file of numbers ({reason})")) from None


def is_array_tiff(path: Path, *, certainly: bool = False) -> bool:
    """Whether a file is a TIFF of numbers: its pixels have more than 8 bits.

    Args:
        path: A file.
        certainly: Whether to count floating-point pixels only; those of 16 bits may also be a picture's.
    """
    if path.suffix.lower() not in TIFF_SUFFIXES:
        return False
    try:
        with Image.open(path, formats=("TIFF",)) as image:
            return image.mode == "F" or (not certainly and image.mode in _TIFF_TYPES and image.mode != "L")
    except _DAMAGED:
        return False


@contextmanager
def _open_npy(path: Path) -> Iterator[NamedArrays]:
    with path.open("rb") as file:
        shape, _, dtype = read_npy_header(file)
        _check_size(shape, dtype, path.stat().st_size - file.tell())
    yield NamedArrays({"": (shape, dtype)}, lambda name: np.asarray(np.load(path, allow_pickle=False)))


@contextmanager
def _open_npz(path: Path) -> Iterator[NamedArrays]:
    yield NamedArrays(npz_entries(path), lambda name: read_npz(path, [name])[name])


@contextmanager
def _open_hdf5(path: Path, *, by_column: bool = False) -> Iterator[NamedArrays]:
    found = list_hdf5_arrays(path)

    def read(name: str) -> np.ndarray:
        values = read_hdf5_array(path, name)
        return values.T if by_column else values

    yield NamedArrays(
        {name: (shape[::-1] if by_column else shape, dtype) for name, (shape, dtype) in found.items()}, read
    )


@contextmanager
def _open_mat(path: Path) -> Iterator[NamedArrays]:
    with path.open("rb") as file:
        start = file.read(_MATLAB_TEXT_BYTES + len(_HDF5_MAGIC))
    if start.endswith(_HDF5_MAGIC) or start.startswith(_HDF5_MAGIC):
        # Version 7.3 is HDF5 with columns first.
        with _open_hdf5(path, by_column=True) as arrays:
            yield arrays
        return
    listed = list_matlab_arrays(path)
    yield NamedArrays(
        {name: (array.shape, array.dtype) for name, array in listed.items()},
        lambda name: read_matlab_array(path, listed[name]),
    )


@contextmanager
def _open_tiff(path: Path) -> Iterator[NamedArrays]:
    with Image.open(path, formats=("TIFF",)) as image:
        pages = getattr(image, "n_frames", 1)
        if image.mode not in _TIFF_TYPES:
            raise ValueError(f"pixels of the kind {image.mode}; write each channel as a page of numbers")
        dtype, side = np.dtype(_TIFF_TYPES[image.mode]), (image.height, image.width)
        _check_size((pages, *side), dtype, MAX_DEFLATE_RATIO * path.stat().st_size)

        def read(name: str) -> np.ndarray:
            planes = []
            for page in range(pages):
                image.seek(page)
                if (image.height, image.width) != side:
                    raise ValueError("its pages differ in size")
                planes.append(np.array(image))
            return np.stack(planes) if pages > 1 else planes[0]

        yield NamedArrays({"": ((pages, *side) if pages > 1 else side, dtype)}, read)


def _check_size(shape: tuple[int, ...], dtype: np.dtype[Any], available: int) -> None:
    """Raise ValueError for an array of objects or one of more bytes than its file can hold."""
    if dtype.hasobject:
        raise ValueError("it holds objects")
    num_bytes = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or num_bytes > available:
        raise ValueError(f"it declares {num_bytes} bytes and can hold {available}")
