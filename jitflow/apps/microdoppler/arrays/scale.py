"""Scale between spectrogram arrays in decibels and the images that the codec takes, in both directions.

Shapes: N spectrograms, C channels (1 or 2), F x T as in the files, H x W the model's image, row 0 the highest velocity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jitflow.apps.microdoppler.arrays.axes import ArrayAxes
from jitflow.apps.microdoppler.arrays.colour_maps import COLOUR_MAPS
from jitflow.apps.microdoppler.arrays.description import ArrayDescription, description_from
from jitflow.apps.microdoppler.arrays.sample import SPECTROGRAM, SpectrogramArray, read_spectrogram
from jitflow.errors import CheckpointError, DataError

# How the three channels of the codec's images are made from those of a spectrogram: the third is their mean.
_MIXES = {1: [[1.0], [1.0], [1.0]], 2: [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]}
# Largest side of a picture: arrays of 4,096 frequencies would take gigabytes in an evaluation.
_MOST_PX = 512
# Below one of 255 grey levels an image is empty, and the codec would take it for numbers of another scale.
_LEAST_LEVEL = 1 / 255


@dataclass(frozen=True)
class ArrayScale:
    """Scale from a data set's spectrograms in dB to images in ``[-1, 1]``, and what is needed to invert it.

    Attributes:
        range_db: Levels at -1 and at 1; in pictures without a stated range 0 and 1.
        unit: ``dB``, or ``level`` for pictures without a stated range.
        num_channels: Channels C of a spectrogram.
        size: Rows F and columns T of the files, and of generated ones.
        lowest_first: Whether the first row of the files, and of generated ones, is the lowest velocity.
        colour_map: Colour map of previews.
        axes: Axes of the spectrograms.
        stated: What the data set's owner stated, which includes how sizes are fitted.
    """

    range_db: tuple[float, float]
    unit: str
    num_channels: int
    size: tuple[int, int]
    lowest_first: bool
    colour_map: str
    axes: ArrayAxes
    stated: ArrayDescription = dataclasses.field(default_factory=ArrayDescription)

    def read(self, path: Path, img_size: int | tuple[int, int]) -> np.ndarray:
        """Read a file as the codec's image.

        Args:
            path: File of a spectrogram.
            img_size: Side of the image in pixels, or (height, width).

        Returns:
            Shape ``(3, H, W)``, float32, 0 to 255.

        Raises:
            DataError: If it is damaged, differs from the others in channels, does not fit, or rises above the range
                by less than a grey level.
        """
        size = (img_size, img_size) if isinstance(img_size, int) else img_size
        levels = self._levels(path, read_spectrogram(path, self.stated))
        fitted = self._fitted(path, levels, size)
        if 0 < fitted.max() <= _LEAST_LEVEL:
            raise DataError(
                f"{path}: no value rises above the range of {self.range_text()}; widen range_db or remove it"
            )
        return np.einsum("kc,chw->khw", self._mix, fitted).astype(np.float32) * 255

    def read_picture(self, path: Path) -> Tensor:
        """Read a file as a grey picture, as :meth:`pictures` shows generated arrays.

        Args:
            path: File of a spectrogram.

        Returns:
            Shape ``(K, F, T)``, uint8, sides over 512 shrunk; K is 1, or 3 for two channels.
        """
        return self._pictured(self._levels(path, read_spectrogram(path, self.stated)))

    def arrays(self, images: Tensor) -> np.ndarray:
        """Convert the codec's images back to spectrogram arrays: the inverse of :meth:`read`.

        Args:
            images: Shape ``(N, 3, H, W)``, nominally in ``[-1, 1]``.

        Returns:
            Levels in dB, shape ``(N, C, F, T)``, float32, with the rows in the order of the data set's files.
        """
        mixed = ((images.detach().float().cpu() + 1) / 2).numpy()
        # The least-squares solution of the mix.
        levels = np.einsum("ck,nkhw->nchw", np.linalg.pinv(self._mix), mixed).clip(0, 1)
        rows, columns = self.size
        if self.stated.fit == "pad":
            sized = levels[..., :rows, :columns]
        else:
            sized = np.stack([_resized(sample, self.size) for sample in levels.astype(np.float32)])
        low, high = self.range_db
        values = (low + sized * (high - low)).astype(np.float32)
        return np.ascontiguousarray(values[:, :, ::-1] if self.lowest_first else values)

    def pictures(self, arrays: np.ndarray) -> Tensor:
        """Draw arrays as grey pictures, white at the top of the range; two channels in colours.

        Args:
            arrays: As :meth:`arrays` returns them, shape ``(N, C, F, T)``.

        Returns:
            Shape ``(N, K, F, T)``, uint8, the highest velocity on top, sides over 512 shrunk; K is 1, or 3 for two
            channels.
        """
        levels = self._normalised(arrays)
        return torch.stack([self._pictured(sample) for sample in (levels[:, :, ::-1] if self.lowest_first else levels)])

    def file_content(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """Return the content of a generated ``.npz``: the spectrogram, its axes, and its range.

        Args:
            array: Levels, shape ``(C, F, T)``.

        Returns:
            ``spectrogram`` (F, T) or (2, F, T) float32, ``range_db`` (2,), and the axes that are known.
        """
        named = {SPECTROGRAM: array[0] if len(array) == 1 else array, "range_db": np.asarray(self.range_db)}
        return named | self.axes.arrays(*self.size, lowest_first=self.lowest_first)

    def range_text(self) -> str:
        """Return the range of levels as text, such as ``-60 to 0 dB``."""
        low, high = self.range_db
        peak = " below each sample's peak" if self.stated.relative_to_peak else ""
        return f"{low:.4g} to {high:.4g} {self.unit}{peak}"

    def to_record(self) -> dict[str, Any]:
        """Return the scale of the spectrograms as plain values, for records and checkpoints; see :meth:`of_record`."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain

    @classmethod
    def of_record(cls, record: Mapping[str, Any], *, source: object = "the checkpoint") -> ArrayScale:
        """Rebuild the scale of spectrograms from its record.

        Args:
            record: As :meth:`to_record` returned it.
            source: Where it is from, for the error message.

        Raises:
            CheckpointError: If the record is damaged.
        """
        try:
            stated, axes = (description_from(record[name], source) for name in ("stated", "axes"))
            low, high = (float(end) for end in record["range_db"])
            rows, columns = (int(side) for side in record["size"])
            scale = cls(
                range_db=(low, high),
                unit=str(record["unit"]),
                num_channels=int(record["num_channels"]),
                size=(rows, columns),
                lowest_first=bool(record["lowest_first"]),
                colour_map=str(record["colour_map"]),
                axes=axes.axes,
                stated=stated,
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{source} has a damaged record of its arrays ({error})") from None
        usable = low < high and min(rows, columns) > 0 and scale.num_channels in _MIXES
        if not usable or scale.colour_map not in COLOUR_MAPS:
            raise CheckpointError(f"{source} has a damaged record of its arrays: {dict(record)}")
        return scale

    @cached_property
    def _mix(self) -> np.ndarray:
        return np.asarray(_MIXES[self.num_channels])

    def _levels(self, path: Path, spectrogram: SpectrogramArray) -> np.ndarray:
        """Return the levels ``(C, F, T)`` in ``[0, 1]`` of a file, checked."""
        values = spectrogram.values
        if len(values) != self.num_channels:
            raise DataError(f"{path} has {len(values)} channels and the others {self.num_channels}; use one number")
        if spectrogram.is_picture:
            return values
        if self.stated.relative_to_peak:
            values = values - values.max(axis=(1, 2), keepdims=True)
        return self._normalised(values)

    def _normalised(self, values: np.ndarray) -> np.ndarray:
        low, high = self.range_db
        return ((np.maximum(values, low) - low) / (high - low)).clip(0, 1).astype(np.float32)

    def _fitted(self, path: Path, levels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        if self.stated.fit == "resize":
            return _resized(levels, size)
        rows, columns = levels.shape[1:]
        if rows > size[0] or columns > size[1] or (rows, columns) != self.size:
            raise DataError(
                f"{path} has {rows} x {columns} values; `fit: pad` needs {self.size[0]} x {self.size[1]} as in the "
                f"first file, at most {size[0]} x {size[1]}; choose a larger img_size, or `fit: resize`"
            )
        return np.pad(levels, ((0, 0), (0, size[0] - rows), (0, size[1] - columns)))

    def _pictured(self, levels: np.ndarray) -> Tensor:
        """Draw the levels ``(C, F, T)`` of a sample."""
        shown = _resized(levels, (min(self.size[0], _MOST_PX), min(self.size[1], _MOST_PX)))
        if self.num_channels > 1:
            shown = np.einsum("kc,chw->khw", self._mix, shown)
        return torch.from_numpy((shown * 255).round().astype(np.uint8))


def _resized(levels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize levels ``(C, F, T)`` to ``(C, H, W)``; values stay in ``[0, 1]``."""
    if levels.shape[1:] == size:
        return levels
    # Pillow widens the filter when it shrinks, which avoids aliasing.
    planes = [
        Image.fromarray(np.ascontiguousarray(plane)).resize(size[::-1], Image.Resampling.BICUBIC) for plane in levels
    ]
    return np.stack([np.asarray(plane) for plane in planes]).clip(0, 1)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
