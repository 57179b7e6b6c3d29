"""Read ``.safetensors`` files, tensors by name and texts in the header; every damage is the same kind of error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jitflow.errors import CheckpointError
from jitflow.io.mistaken_file import unreadable
from jitflow.io.torch_file import MOST_DIMENSIONS

if TYPE_CHECKING:
    from torch import Tensor


class TensorFile:
    """An open safetensors file of weights or features, whose tensors are read one by one.

    Attributes:
        metadata: Texts in the header by name.
        shapes: Shape of each tensor by name.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        self._file = safe_open(path, "pt")
        self.metadata: dict[str, str] = self._file.metadata() or {}
        self.shapes: dict[str, tuple[int, ...]] = {
            name: tuple(self._file.get_slice(name).get_shape())
            for name in self._file.keys()  # noqa: SIM118 (no mapping)
        }
        for name, shape in self.shapes.items():
            if len(shape) > MOST_DIMENSIONS:
                raise ValueError(f"{name} has {len(shape)} dimensions; at most {MOST_DIMENSIONS} are read")

    def tensor(self, name: str) -> Tensor:
        """Return a tensor, on the CPU."""
        tensor: Tensor = self._file.get_tensor(name)
        return tensor


@contextmanager
def open_tensors(path: str | Path) -> Iterator[TensorFile]:
    """Open a safetensors file of weights or features; reading a tensor in the block raises the same errors.

    Args:
        path: The file.

    Yields:
        The file.

    Raises:
        CheckpointError: If it is damaged or no safetensors file.
    """
    from safetensors import SafetensorError

    try:
        yield TensorFile(Path(path))
    # A header can hold kinds of numbers and sizes that torch does not have.
    except (SafetensorError, OSError, AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise CheckpointError(unreadable(path, f"no safetensors file ({error})")) from error


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors of a safetensors file of weights or features.

    Args:
        path: The file.

    Returns:
        The tensors by name, on the CPU, and the texts in the header.

    Raises:
        CheckpointError: If it is damaged or no safetensors file.
    """
    with open_tensors(path) as file:
        return {name: file.tensor(name) for name in file.shapes}, file.metadata
