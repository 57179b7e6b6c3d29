"""Linear codec: latents from principal components of image patches, without a trained autoencoder.

Shapes: B batch, H x W pixels, P patch side, F = 3 P P values of a patch, Z components, h x w patches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from jitflow.codec.base import UNSCALED, Codec, check_pixel_range
from jitflow.codec.vae import weights_checksum
from jitflow.errors import CheckpointError, ConfigError, DataError
from jitflow.host import full_float32
from jitflow.io.files import atomic_path, existing_file
from jitflow.io.json_text import parse_json
from jitflow.io.safetensors_file import read_tensors

FORMAT = "jitflow linear_codec"
_CHANNELS = 3
# Images processed at once, which bounds memory.
_CHUNK = 16
# Far below the variance that rounding to 8 bits adds to a pixel of [-1, 1] (5e-6).
_LEAST_VARIANCE = 1e-9


class LinearCodec:
    """Codec of images by principal components of their patches: f16d32 for patches of 16 pixels and 32 components.

    Pixels are scaled to [-1, 1], cut into patches, and each patch is described by its coordinates along the
    orthonormal components. With fewer components than values, decoding gives the nearest image that they span. A
    plain object with the interface of :class:`~jitflow.codec.vae.VAECodec`; results are on the device of the input.

    Args:
        components: Orthonormal rows, shape ``(Z, F)``, F in the order channel, row, column.
        patch_mean: Mean patch, shape ``(F,)``.
        img_size: Side of the images in pixels, or (height, width).

    Raises:
        ConfigError: If the size is not a multiple of the patch's side, or the tensors' shapes are inconsistent.
    """

    # For records; see VAECodec.
    scaling = UNSCALED

    def __init__(self, components: Tensor, patch_mean: Tensor, *, img_size: int | tuple[int, int]) -> None:
        if components.dim() != 2 or patch_mean.shape != components.shape[1:]:
            raise ConfigError(
                f"components (Z, F) and patch_mean (F,) do not fit each other: {tuple(components.shape)}, "
                f"{tuple(patch_mean.shape)}"
            )
        self.patch_size = math.isqrt(components.shape[1] // _CHANNELS)
        if _CHANNELS * self.patch_size**2 != components.shape[1] or not self.patch_size:
            raise ConfigError(f"components of {components.shape[1]} numbers are no square RGB patches")
        self.img_size = _check_size(img_size, self.patch_size)
        self.components = components.detach().float().contiguous()
        self.patch_mean = patch_mean.detach().float().contiguous()
        height, width = self.img_size
        self.shape = (len(components), height // self.patch_size, width // self.patch_size)

    @classmethod
    def fit(cls, batches: Iterable[Tensor], *, num_components: int = 32, patch_size: int = 16) -> LinearCodec:
        """Fit the principal components of image patches (least mean squared error).

        Sums of pixels and of their products are whole numbers that float64 holds exactly, so the result does not depend
        on the batches, nor memory on the number of images.

        Args:
            batches: Images, shape ``(B, 3, H, W)``, uint8, all of one size.
            num_components: Z.
            patch_size: P, by which H and W must be divisible.

        Returns:
            The codec, on the CPU.

        Raises:
            ConfigError: If the size is not a multiple of ``patch_size``, or there are more components than values in a
                patch.
            DataError: If there are too few patches, or their rank is below the number of components.
        """
        features = _CHANNELS * patch_size**2
        if not 1 <= num_components <= features:
            raise ConfigError(f"num_components must lie between 1 and {features}; got {num_components}")
        total = torch.zeros(features, dtype=torch.float64)
        products = torch.zeros(features, features, dtype=torch.float64)
        count = 0
        size: tuple[int, int] | None = None
        for batch in batches:
            _check_images(batch)
            if size is None:
                size = _check_size((batch.shape[2], batch.shape[3]), patch_size)
            elif tuple(batch.shape[2:]) != size:
                raise DataError(f"all images must have one size; got {tuple(batch.shape[2:])} after {size}")
            for chunk in batch.cpu().split(_CHUNK):
                patches = _to_patches(chunk.double(), patch_size).reshape(-1, features)
                total += patches.sum(0)
                products += patches.T @ patches
                count += len(patches)
        if size is None or count <= num_components:
            raise DataError(
                f"{count} patches of {patch_size}x{patch_size} pixels are too few for {num_components} components; "
                f"more than {num_components} are needed, so give more or larger images"
            )
        mean = total / count
        covariance = (products / count - mean.outer(mean)) / 127.5**2
        variances, vectors = torch.linalg.eigh(covariance)
        found = int((variances > _LEAST_VARIANCE).sum())
        if found < num_components:
            raise DataError(
                f"the patches of these images differ in {found} ways only, and {num_components} components are asked "
                "for; are all images alike or of one colour?"
            )
        components = vectors.flip(1).T[:num_components]
        # The sign of a component is arbitrary; its largest value (the first of those equal up to rounding) is made
        # positive, # so that all processors agree.
        sizes = components.abs()
        largest = components.gather(1, (sizes > sizes.amax(1, keepdim=True) - 1e-9).int().argmax(1, keepdim=True))
        return cls(components * largest.sign(), mean / 127.5 - 1.0, img_size=size)

    @property
    def id(self) -> str:
        """Name of the codec for records, such as ``linear_f16d32``."""
        return f"linear_f{self.patch_size}d{self.shape[0]}"

    @property
    def device(self) -> torch.device:
        """Device of the codec's tensors."""
        return self.components.device

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of components and mean patch."""
        return weights_checksum(self._weights())

    def to(self, device: torch.device | str) -> LinearCodec:
        """Move the components to a device; returns itself."""
        self.components, self.patch_mean = self.components.to(device), self.patch_mean.to(device)
        return self

    def encode(self, data: Tensor) -> Tensor:
        """Encode images as latents, not normalised.

        Args:
            data: Images, shape ``(B, 3, H, W)``, 0 to 255.

        Returns:
            Latents, shape ``(B, Z, h, w)``, float32, on the device of ``data``.

        Raises:
            ValueError: If the images' size differs from the codec's.
        """
        expected = (_CHANNELS, *self.img_size)
        if data.shape[1:] != expected:
            raise ValueError(
                f"this codec takes images of shape (B, {', '.join(map(str, expected))}); got {tuple(data.shape)}"
            )
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False), full_float32():
            patches = _to_patches(check_pixel_range(data).to(self.device).float() / 127.5 - 1.0, self.patch_size)
            latents = (patches - self.patch_mean) @ self.components.T
            return latents.permute(0, 3, 1, 2).contiguous().to(data.device)

    def decode_float(self, x: Tensor) -> Tensor:
        """Decode latents to images without rounding.

        Args:
            x: Latents, shape ``(B, Z, h, w)``; h and w may differ from the codec's.

        Returns:
            Images, shape ``(B, 3, P h, P w)``, float32, nominally in ``[-1, 1]``, not clipped.

        Raises:
            ValueError: If the latents' number of channels differs from the codec's.
        """
        if x.dim() != 4 or x.shape[1] != self.shape[0]:
            raise ValueError(f"this codec takes latents of shape (B, {self.shape[0]}, h, w); got {tuple(x.shape)}")
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False), full_float32():
            patches = x.to(self.device).float().permute(0, 2, 3, 1) @ self.components + self.patch_mean
            return _from_patches(patches, self.patch_size).to(x.device)

    def decode(self, x: Tensor) -> Tensor:
        """Decode latents to pixels: ``round(clip((image + 1) 127.5))``.

        Args:
            x: Latents, shape ``(B, Z, h, w)``.

        Returns:
            Images, shape ``(B, 3, P h, P w)``, uint8.

        Raises:
            ValueError: If the latents' number of channels differs from the codec's.
        """
        return ((self.decode_float(x) + 1.0) * 127.5).clamp(0, 255).round().to(torch.uint8)

    def state(self) -> dict[str, Any]:
        """Return the codec's state as tensors and plain values, for a checkpoint; see :meth:`from_state`."""
        return {"id": self.id, "img_size": list(self.img_size), "checksum": self.checksum, **self._weights()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, source: object = "the checkpoint") -> LinearCodec:
        """Rebuild a codec from :meth:`state`.

        Args:
            state: The state.
            source: Origin of the state, for the error message.

        Raises:
            CheckpointError: If something is missing or damaged.
        """
        try:
            height, width = (int(side) for side in state["img_size"])
            codec = cls(state["components"], state["patch_mean"], img_size=(height, width))
            whole = codec.checksum == state["checksum"]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"{source} holds no whole linear codec ({error})") from None
        if not whole:
            raise CheckpointError(f"{source} is damaged: the linear codec's numbers are not those it was written with")
        return codec

    def export(self, path: str | Path) -> None:
        """Save the codec to a file (about 100 kB for f16d32).

        Args:
            path: The ``.safetensors`` to write.

        Raises:
            ConfigError: If the name has another suffix.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ConfigError(f"a linear codec is a .safetensors file; got {path}")
        metadata = {"format": FORMAT, "img_size": json.dumps(self.img_size), "checksum": self.checksum}
        with atomic_path(path) as temporary:
            safetensors.torch.save_file(self._weights(), temporary, metadata=metadata)

    @classmethod
    def from_file(cls, path: str | Path) -> LinearCodec:
        """Load a codec from a file that :meth:`export` wrote.

        Args:
            path: The file.

        Raises:
            MissingFileError: If there is no such file.
            CheckpointError: If it is damaged or not a linear codec.
        """
        path = existing_file(path, what="linear codec")
        weights, metadata = read_tensors(path)
        if metadata.get("format") != FORMAT or weights.keys() != {"components", "patch_mean"}:
            raise CheckpointError(f"{path} is no linear codec; it holds {', '.join(weights) or 'nothing'}")
        try:
            img_size = parse_json(metadata.get("img_size", ""))
        except ValueError:
            raise CheckpointError(f"{path} says it is a linear codec, but its settings cannot be read") from None
        return cls.from_state({**weights, "img_size": img_size, "checksum": metadata.get("checksum")}, source=path)

    def _weights(self) -> dict[str, Tensor]:
        return {"components": self.components.cpu(), "patch_mean": self.patch_mean.cpu()}


@dataclass(frozen=True)
class Psnr:
    """Peak signal-to-noise ratio (PSNR) between 8-bit images in dB; infinite if they are equal.

    Attributes:
        mean_db: Mean of the images' ratios, as usually reported.
        pooled_db: Ratio of the mean squared error over all images, which weighs bad images more.
        num_images: Number of images compared.
    """

    mean_db: float
    pooled_db: float
    num_images: int


def psnr(images: Tensor, others: Tensor) -> Psnr:
    """Compute the PSNR between images and their reconstructions.

    Args:
        images: Shape ``(B, C, H, W)``, uint8.
        others: The same shape, uint8.

    Returns:
        The ratios, with a peak of 255.

    Raises:
        ValueError: If the shapes differ or there are no images.
    """
    if images.shape != others.shape or not len(images):
        raise ValueError(f"images and reconstructions must be pairs; got {tuple(images.shape)}, {tuple(others.shape)}")
    errors = torch.stack([(a.double() - b.double()).square().mean() for a, b in zip(images, others, strict=True)])
    return Psnr(_decibels(errors).mean().item(), _decibels(errors.mean()).item(), len(images))


def reconstruction_psnr(codec: Codec, images: Tensor) -> Psnr:
    """Compute the PSNR of a codec's reconstructions of images.

    Args:
        codec: Maps images to latents and back.
        images: Shape ``(B, 3, H, W)``, uint8.

    Returns:
        The ratios between the images and their reconstructions.
    """
    return psnr(images, torch.cat([codec.decode(codec.encode(part)) for part in images.split(_CHUNK)]))


def _decibels(mean_squared_error: Tensor) -> Tensor:
    return 10 * torch.log10(255.0**2 / mean_squared_error)


def _check_size(img_size: int | tuple[int, int], patch_size: int) -> tuple[int, int]:
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if min(height, width) < 1 or height % patch_size or width % patch_size:
        raise ConfigError(f"img_size {height}x{width} must be divisible by the linear codec's patches of {patch_size}")
    return height, width


def _check_images(batch: Tensor) -> None:
    if batch.dim() != 4 or batch.shape[1] != _CHANNELS or batch.dtype != torch.uint8:
        raise DataError(f"images must be uint8 of shape (B, 3, H, W); got {batch.dtype} {tuple(batch.shape)}")


def _to_patches(images: Tensor, side: int) -> Tensor:
    """Split images ``(B, C, h P, w P)`` into patches ``(B, h, w, C P P)``."""
    batch, channels, height, width = images.shape
    tiles = images.reshape(batch, channels, height // side, side, width // side, side)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(batch, height // side, width // side, channels * side * side)


def _from_patches(patches: Tensor, side: int) -> Tensor:
    """Assemble patches ``(B, h, w, C P P)`` into images ``(B, C, h P, w P)``."""
    batch, rows, columns, _ = patches.shape
    tiles = patches.reshape(batch, rows, columns, _CHANNELS, side, side).permute(0, 3, 1, 4, 2, 5)
    return tiles.reshape(batch, _CHANNELS, rows * side, columns * side)
