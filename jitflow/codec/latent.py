"""Codec for precomputed latents: normalises them for the network, decodes them with their image codec."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from jitflow.codec.diffusers_folder import find_autoencoder_folder, load_diffusers_autoencoder
from jitflow.codec.linear import FORMAT as LINEAR_FORMAT
from jitflow.codec.linear import LinearCodec
from jitflow.codec.vae import VAECodec, load_autoencoder
from jitflow.errors import ConfigError
from jitflow.io.files import existing_file
from jitflow.io.safetensors_file import open_tensors

ImageCodec = LinearCodec | VAECodec
# Digits of a checksum shown in messages.
_DIGITS = 12


class LatentCodec:
    """Codec that normalises latents of an image codec to mean 0 and standard deviation 1 in each channel.

    A plain object, not a module: statistics and image codec are neither trained nor saved with the network.

    Args:
        shape: Shape of one sample, ``(Z, h, w)``.
        mean: Mean of each channel, Z numbers in any shape; None for 0.
        std: Standard deviation of each channel, Z numbers in any shape; None for 1.
        images: The image codec that decodes; it can be attached later, since encoding does not need it.
        expected_id: Kind of the image codec that made the latents, such as ``vae_f16d32``; None for that of
            ``images``.
        expected_checksum: Its checksum; None for that of ``images``.

    Raises:
        ConfigError: If the statistics are not Z finite numbers with positive deviations, or ``images`` is not the
            codec that made the latents.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (32, 16, 16),
        mean: Tensor | Sequence[float] | None = None,
        std: Tensor | Sequence[float] | None = None,
        images: ImageCodec | None = None,
        *,
        expected_id: str | None = None,
        expected_checksum: str | None = None,
    ) -> None:
        if len(shape) != 3 or min(shape) < 1:
            raise ConfigError(f"the shape of latents is (channels, height, width); got {shape}")
        self.shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        self.expected_id = expected_id
        self.expected_checksum = expected_checksum
        self.images: ImageCodec | None = None
        self.mean = torch.zeros(1, self.shape[0], 1, 1)
        self.std = torch.ones(1, self.shape[0], 1, 1)
        self.set_normalisation(mean, std)
        if images is not None:
            self.attach(images)

    @property
    def img_size(self) -> tuple[int, int] | None:
        """Height and width of decoded images in pixels; None without an image codec."""
        return None if self.images is None else self.images.img_size

    def set_normalisation(
        self, mean: Tensor | Sequence[float] | None = None, std: Tensor | Sequence[float] | None = None
    ) -> None:
        """Set the mean and standard deviation of each channel; if they are invalid, the old ones stay."""
        new_mean, new_std = self._statistic("mean", mean, 0.0), self._statistic("std", std, 1.0)
        if not (new_std > 0).all():
            raise ConfigError(f"std must be positive for every latent channel; the smallest is {new_std.min():g}")
        self.mean, self.std = new_mean, new_std

    def attach(self, images: ImageCodec) -> LatentCodec:
        """Attach the image codec that made the latents.

        Args:
            images: The codec; an autoencoder must not normalise by itself.

        Returns:
            This codec.

        Raises:
            ConfigError: If it is not the codec that made the latents, or its latents have another shape.
        """
        if self.expected_id is not None and images.id != self.expected_id:
            raise ConfigError(
                f"the latents were made by {self._codec_description()}, and the given codec is {images.id} "
                f"(checksum {images.checksum[:_DIGITS]}); pass --vavae_path with the one that made them"
            )
        if self.expected_checksum is not None and images.checksum != self.expected_checksum:
            raise ConfigError(
                f"the latents were made by {images.id} with checksum {self.expected_checksum[:_DIGITS]}, and the "
                f"given one has {images.checksum[:_DIGITS]}; pass --vavae_path with the one that made them"
            )
        if images.shape != self.shape:
            raise ConfigError(
                f"{images.id} makes latents of shape {images.shape} from images of {images.img_size[0]}x"
                f"{images.img_size[1]}, and these have {self.shape}; give it the img_size that they were made with"
            )
        if isinstance(images, VAECodec) and (images.mean.any() or (images.std != 1).any()):
            raise ConfigError("the autoencoder normalises already; give one without mean and std")
        self.images = images
        self.expected_id, self.expected_checksum = images.id, images.checksum
        return self

    def to(self, device: torch.device | str) -> LatentCodec:
        """Move the image codec to a device (the statistics follow the latents automatically); returns itself."""
        if self.images is not None:
            self.images.to(device)
        return self

    def encode(self, data: Tensor) -> Tensor:
        """Map latents to the model space: ``(z - mean) / std``.

        Args:
            data: Latents of the image codec, shape ``(B, Z, h, w)``.

        Returns:
            Normalised latents, shape ``(B, Z, h, w)``, float32.

        Raises:
            ValueError: If their shape differs from the codec's.
        """
        if data.shape[1:] != self.shape:
            raise ValueError(
                f"this codec takes latents of shape (B, {', '.join(map(str, self.shape))}); got {tuple(data.shape)}"
            )
        return (data.float() - self.mean.to(data.device)) / self.std.to(data.device)

    def denormalise(self, x: Tensor) -> Tensor:
        """Map the model space to latents of the image codec: ``x std + mean``, shape ``(B, Z, h, w)``, float32."""
        return x.float() * self.std.to(x.device) + self.mean.to(x.device)

    def decode_float(self, x: Tensor) -> Tensor:
        """Decode the model space to images without rounding.

        Args:
            x: Normalised latents, shape ``(B, Z, h, w)``.

        Returns:
            Images, shape ``(B, 3, H, W)``, float32, nominally in ``[-1, 1]``, not clipped.

        Raises:
            ConfigError: If there is no image codec.
        """
        return self.image_codec().decode_float(self.denormalise(x))

    def decode(self, x: Tensor) -> Tensor:
        """Decode the model space to pixels.

        Args:
            x: Normalised latents, shape ``(B, Z, h, w)``.

        Returns:
            Images, shape ``(B, 3, H, W)``, uint8.

        Raises:
            ConfigError: If there is no image codec.
        """
        return self.image_codec().decode(self.denormalise(x))

    def image_codec(self) -> ImageCodec:
        """Return the image codec; raise ConfigError, saying which one to pass and how, if there is none."""
        if self.images is None:
            raise ConfigError(
                f"latents become images only through the codec that made them, {self._codec_description()}; "
                "pass --vavae_path with its file"
            )
        return self.images

    def _codec_description(self) -> str:
        known = f" (checksum {self.expected_checksum[:_DIGITS]})" if self.expected_checksum else ""
        return f"{self.expected_id or 'an unknown codec'}{known}"

    def _statistic(self, name: str, given: Tensor | Sequence[float] | None, default: float) -> Tensor:
        channels = self.shape[0]
        if given is None:
            return torch.full((1, channels, 1, 1), default)
        values = torch.as_tensor(given).detach().float().cpu()
        if values.numel() != channels or not values.isfinite().all():
            raise ConfigError(
                f"{name} needs {channels} finite numbers, one for each latent channel; got shape {tuple(values.shape)}"
            )
        return values.reshape(1, channels, 1, 1).clone()


def load_image_codec(path: str | Path, *, img_size: int | tuple[int, int] = 256) -> ImageCodec:
    """Load an image codec of any kind from a file or a folder.

    Args:
        path: A VA-VAE (see :func:`~jitflow.codec.vae.load_autoencoder`), a ``linear_codec.safetensors``, or the folder
            of a diffusers autoencoder (see :func:`~jitflow.codec.diffusers_folder.load_diffusers_autoencoder`).
        img_size: Side of the images in pixels, or (height, width).

    Returns:
        The codec, on the CPU, without a normalisation.

    Raises:
        MissingFileError: If there is no such file, or the folder lacks one.
        CheckpointError: If it is damaged or holds no image codec.
        ConfigError: If the size does not fit.
    """
    if (folder := find_autoencoder_folder(path)) is not None:
        vae = load_diffusers_autoencoder(folder)
    else:
        path = existing_file(path, what="image codec")
        if _is_linear(path):
            loaded = LinearCodec.from_file(path)
            return LinearCodec(loaded.components, loaded.patch_mean, img_size=img_size)
        vae = load_autoencoder(path)
    return VAECodec(vae, img_size=img_size)


def _is_linear(path: Path) -> bool:
    if path.suffix != ".safetensors":
        return False
    with open_tensors(path) as file:
        return file.metadata.get("format") == LINEAR_FORMAT
