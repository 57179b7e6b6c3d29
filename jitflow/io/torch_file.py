"""Check a torch checkpoint before and after it is read, so that it takes no more memory than its size justifies."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitflow.io.pickle_scan import UnsafePickleError, scan_pickle
from jitflow.io.plain_values import check_number_of_values, measure, well_formed

if TYPE_CHECKING:
    from torch import Tensor

# Weights, averages and optimiser may each be named several times, as our own checkpoints do.
_MOST_REPEATS = 8
_SPARE_BYTES = 1 << 26
_MOST_MEMBERS = 500_000
# Torch's kernels handle no more than 64, safetensors' and numpy's arrays fewer.
MOST_DIMENSIONS = 32
"""Most dimensions of a tensor or array in a file."""
# Pickles before that of the content in a file of torch before 1.6: a number, a version, facts about the machine.
_LEGACY_PICKLES = 5


def check_pickles(path: Path, allowed: Collection[str]) -> None:
    """Check a checkpoint's archive and scan its pickle, without making any of its values.

    Args:
        path: The file, of the zip format or that of torch before 1.6.
        allowed: Names of classes that it may name, besides those of tensors and plain containers.

    Raises:
        UnsafePickleError: If it names anything else, is compressed, or asks for too much.
        ValueError: If its pickle is damaged.
        zipfile.BadZipFile: If its archive is damaged.
    """
    num_bytes, names = path.stat().st_size, set(allowed)
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            for _ in range(_LEGACY_PICKLES):
                scan_pickle(file, names, file_bytes=num_bytes)
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > _MOST_MEMBERS:
            raise UnsafePickleError(f"it has {len(members):,} members; at most {_MOST_MEMBERS:,} are read")
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > num_bytes:
                raise UnsafePickleError(f"its member {member.filename!a:.60} is compressed, as torch.save writes none")
            if member.filename.rpartition("/")[2] == "data.pkl":
                scan_pickle(io.BytesIO(archive.read(member)), names, file_bytes=num_bytes)


def check_content(content: Mapping[Any, Any], path: Path) -> None:
    """Check the values that were read from a checkpoint.

    Args:
        content: Its entries.
        path: The file.

    Raises:
        ValueError: If a container holds itself, values are too many or nested too deeply, a text holds half of a
            surrogate pair, a tensor is of another kind than strided with numbers, or the tensors have many more
            numbers than the file.
    """
    extent = measure(content, num_bytes=_num_bytes)
    check_number_of_values(extent)
    most = _MOST_REPEATS * path.stat().st_size + _SPARE_BYTES
    if extent.num_bytes > most:
        raise ValueError(f"its tensors and texts would take {extent.num_bytes / 1e9:.3g} GB of memory")


def check_tensor(tensor: Tensor) -> None:
    """Raise ValueError unless a tensor of a file is strided, has numbers, and not too many dimensions."""
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
        raise ValueError("it holds a tensor that is sparse, quantised, nested or without numbers")
    if tensor.ndim > MOST_DIMENSIONS:
        raise ValueError(f"it holds a tensor of {tensor.ndim} dimensions; at most {MOST_DIMENSIONS} are read")


def _num_bytes(value: Any) -> int:
    import torch

    if isinstance(value, torch.Tensor):
        check_tensor(value)
        return value.numel() * value.element_size()
    if isinstance(value, str):
        if well_formed(value) != value:
            raise ValueError("it holds a name or text with half of a surrogate pair, which no encoding can write")
        return len(value)
    return 0
