"""Codec of a trained autoencoder, such as VA-VAE f16d32: 256 x 256 pixels to 32 x 16 x 16.

Shapes: B batch, H x W pixels, Z latent channels, h x w latent positions.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from jitflow.codec.base import UNSCALED, check_pixel_range
from jitflow.errors import CheckpointError, ConfigError
from jitflow.host import full_float32
from jitflow.io.files import atomic_path, existing_file, load_checkpoint
from jitflow.io.json_text import parse_json
from jitflow.io.safetensors_file import read_tensors
from jitflow.nets.autoencoder_kl import AutoencoderKL, GaussianLatents
from jitflow.nets.weights import check_weights, load_strictly, shorten, strip_prefix, summarise

# Parts of an autoencoder; a training checkpoint also holds losses, a discriminator and a foundation model.
_PREFIXES = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_ANCHOR = "post_quant_conv.weight"
_SLIM_FORMAT = "jitflow autoencoder_kl"


class VAECodec:
    """Codec of images and latents through a frozen autoencoder.

    A plain object, not a module: a LightningModule that holds it neither trains nor saves the autoencoder. It
    computes in float32 on its own device (:meth:`to`) whatever the surrounding precision; results are on the device of
    the input.

    Args:
        vae: The autoencoder; it is frozen.
        img_size: Side of the images in pixels, or (height, width).
        mean: Mean of each latent channel, Z numbers in any shape, subtracted after encoding; None for 0.
        std: Standard deviation of each latent channel, divided by after encoding; None for 1.
        sample: Whether to encode to a sample of the latents' distribution, as the release does, or to its mean.
        generator: Generator of these samples; None for torch's global one.
        chunk_size: Images processed by the autoencoder at once.

    Raises:
        ConfigError: If a size does not fit, or the statistics are not Z finite numbers with positive deviations.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        *,
        img_size: int | tuple[int, int] = 256,
        mean: Tensor | Sequence[float] | None = None,
        std: Tensor | Sequence[float] | None = None,
        sample: bool = True,
        generator: torch.Generator | None = None,
        chunk_size: int = 16,
    ) -> None:
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if min(height, width) < 1 or height % vae.factor or width % vae.factor:
            raise ConfigError(f"img_size {height}x{width} must be divisible by the autoencoder's factor {vae.factor}")
        if chunk_size < 1:
            raise ConfigError(f"chunk_size must be at least 1; got {chunk_size}")
        self.vae = vae.float().eval().requires_grad_(False)
        self.img_size = (height, width)
        self.shape = (vae.embed_dim, height // vae.factor, width // vae.factor)
        self.sample = sample
        self.generator = generator
        self.chunk_size = chunk_size
        self.mean = torch.zeros(1, vae.embed_dim, 1, 1)
        self.std = torch.ones(1, vae.embed_dim, 1, 1)
        self.set_normalisation(mean, std)

    @classmethod
    def from_file(cls, path: str | Path, *, config: Mapping[str, Any] | None = None, **options: Any) -> VAECodec:
        """Load the autoencoder from a file; see :func:`load_autoencoder`.

        Args:
            path: ``vavae-imagenet256-f16d32-dinov2.pt`` or similar, or a slim ``.safetensors`` of :meth:`export`.
            config: Settings of :class:`~jitflow.nets.autoencoder_kl.AutoencoderKL` if they are not f16d32's.
            options: Further arguments of the codec.
        """
        return cls(load_autoencoder(path, config), **options)

    @property
    def id(self) -> str:
        """Kind of the codec for records, such as ``vae_f16d32``."""
        return f"vae_f{self.vae.factor}d{self.vae.embed_dim}"

    @property
    def device(self) -> torch.device:
        """Device of the autoencoder."""
        return self.vae.quant_conv.weight.device

    @property
    def scaling(self) -> tuple[float, float]:
        """Factor and shift of the latents, ``(z - shift) * factor``, for records; 1 and 0 for a VA-VAE."""
        return self.vae.scaling

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the weights and of any scaling, the same from the original file and from a slim one."""
        return _checksum(self.vae)

    def to(self, device: torch.device | str) -> VAECodec:
        """Move the autoencoder to a device; returns itself."""
        self.vae.to(device)
        return self

    def set_normalisation(
        self, mean: Tensor | Sequence[float] | None = None, std: Tensor | Sequence[float] | None = None
    ) -> None:
        """Set the mean and standard deviation of each latent channel; see the class."""
        self.mean = self._statistic("mean", mean, 0.0)
        self.std = self._statistic("std", std, 1.0)
        if not (self.std > 0).all():
            raise ConfigError(f"std must be positive for every latent channel; the smallest is {self.std.min():g}")

    def _statistic(self, name: str, given: Tensor | Sequence[float] | None, default: float) -> Tensor:
        channels = self.vae.embed_dim
        if given is None:
            return torch.full((1, channels, 1, 1), default)
        values = torch.as_tensor(given).detach().float().cpu()
        if values.numel() != channels or not values.isfinite().all():
            raise ConfigError(
                f"{name} needs {channels} finite numbers, one for each latent channel; got shape {tuple(values.shape)}"
            )
        return values.reshape(1, channels, 1, 1).clone()

    def normalise(self, z: Tensor) -> Tensor:
        """Map latents of the autoencoder to the model space: ``(z - mean) / std``, shape ``(B, Z, h, w)``."""
        return (z - self.mean.to(z.device)) / self.std.to(z.device)

    def denormalise(self, x: Tensor) -> Tensor:
        """Map the model space to latents of the autoencoder: ``x std + mean``, shape ``(B, Z, h, w)``."""
        return x * self.std.to(x.device) + self.mean.to(x.device)

    def encode_distribution(self, data: Tensor) -> GaussianLatents:
        """Encode images as distributions of latents, without normalisation.

        Args:
            data: Images, shape ``(B, 3, H, W)``, 0 to 255.

        Returns:
            ``(mean, logvar)``, each of shape ``(B, Z, h, w)``, float32, on the device of ``data``.

        Raises:
            ValueError: If the images' size differs from the codec's.
        """
        expected = (self.vae.in_channels, *self.img_size)
        if data.shape[1:] != expected:
            raise ValueError(
                f"this codec takes images of shape (B, {', '.join(map(str, expected))}); got {tuple(data.shape)}"
            )
        check_pixel_range(data)
        with self._frozen():
            parts = [self.vae.encode(p.to(self.device).float() / 127.5 - 1.0) for p in data.split(self.chunk_size)]
            mean, logvar = (torch.cat(pieces).to(data.device) for pieces in zip(*parts, strict=True))
        return GaussianLatents(mean, logvar)

    def encode(self, data: Tensor) -> Tensor:
        """Encode images in the model space.

        Args:
            data: Images, shape ``(B, 3, H, W)``, 0 to 255.

        Returns:
            Normalised latents, shape ``(B, Z, h, w)``, float32.

        Raises:
            ValueError: If the images' size differs from the codec's.
        """
        latents = self.encode_distribution(data)
        return self.normalise(latents.sample(self.generator) if self.sample else latents.mean)

    def decode_float(self, x: Tensor) -> Tensor:
        """Decode the model space to images without rounding.

        Args:
            x: Normalised latents, shape ``(B, Z, h, w)``.

        Returns:
            Images, shape ``(B, 3, H, W)``, float32, nominally in ``[-1, 1]``, not clipped.

        Raises:
            ValueError: If the latents' number of channels differs from the autoencoder's.
        """
        if x.dim() != 4 or x.shape[1] != self.shape[0]:
            raise ValueError(f"this codec takes latents of shape (B, {self.shape[0]}, h, w); got {tuple(x.shape)}")
        with self._frozen():
            z = self.denormalise(x.float())
            return torch.cat([self.vae.decode(p.to(self.device)).to(x.device) for p in z.split(self.chunk_size)])

    def decode(self, x: Tensor) -> Tensor:
        """Decode the model space to pixels: ``trunc(clip(127.5 image + 128))``, the release's rounding.

        Args:
            x: Normalised latents, shape ``(B, Z, h, w)``.

        Returns:
            Images, shape ``(B, 3, H, W)``, uint8.

        Raises:
            ValueError: If the latents' number of channels differs from the autoencoder's.
        """
        return (127.5 * self.decode_float(x) + 128).clamp(0, 255).to(torch.uint8)

    def export(self, path: str | Path) -> None:
        """Save only the autoencoder, bit-equal, with its settings: 279 MB instead of 2 GB for f16d32.

        The normalisation belongs to a data set, so it is not in the file.

        Args:
            path: The ``.safetensors`` to write.

        Raises:
            ConfigError: If the name has another suffix.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ConfigError(f"a slim autoencoder is a .safetensors file; got {path}")
        weights = {name: value.contiguous().cpu() for name, value in self.vae.state_dict().items()}
        metadata = {"format": _SLIM_FORMAT, "config": json.dumps(self.vae.config), "checksum": self.checksum}
        with atomic_path(path) as temporary:
            safetensors.torch.save_file(weights, temporary, metadata=metadata)

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        # Not inference mode, since a network is trained on these tensors. Half precision would overflow in the decoder.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False), full_float32():
            yield


def load_autoencoder(path: str | Path, config: Mapping[str, Any] | None = None) -> AutoencoderKL:
    """Load an autoencoder strictly, from a training checkpoint or an exported file.

    Of a checkpoint only the autoencoder's tensors are read (the file is mapped, not loaded), under any wrapper's
    prefix; losses, discriminator, foundation model and optimiser are skipped. The global random generator is
    not used.

    Args:
        path: ``.pt``, ``.ckpt`` or ``.safetensors``.
        config: Settings of :class:`~jitflow.nets.autoencoder_kl.AutoencoderKL`; by default those in the file's
            metadata, else f16d32's.

    Returns:
        The autoencoder, float32, on the CPU, in evaluation mode.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it is damaged, holds something else (the message lists what), or does not fit.
    """
    path = existing_file(path, what="autoencoder")
    content, metadata = _read(path)
    own_settings, own_checksum = _slim_metadata(path, metadata)
    # A training checkpoint stores the weights in a section beside the optimiser.
    tensors = content["state_dict"] if isinstance(content.get("state_dict"), Mapping) else content
    stripped = strip_prefix(tensors, _ANCHOR)
    weights = {
        name: value for name, value in stripped.items() if name.startswith(_PREFIXES) and isinstance(value, Tensor)
    }
    if _ANCHOR not in weights or not any(name.startswith("encoder.") for name in weights):
        raise CheckpointError(
            f"{path} holds no VA-VAE (tensors named {', '.join(f'{part}*' for part in _PREFIXES)}); "
            f"found: {summarise(tensors)}"
        )
    vae = empty_autoencoder(own_settings if config is None else config, source=path)
    fill_autoencoder(vae, weights, source=path)
    if own_checksum is not None and own_checksum != _checksum(vae):
        raise CheckpointError(f"{path} is damaged: its weights are not those it was written with; export it again")
    return vae


def empty_autoencoder(settings: Mapping[str, Any], *, source: object) -> AutoencoderKL:
    """Build an autoencoder without weights, on the meta device, from settings that may come from a file.

    Args:
        settings: Settings of :class:`~jitflow.nets.autoencoder_kl.AutoencoderKL`.
        source: Their origin, for the error message.

    Raises:
        CheckpointError: If a setting is unknown or cannot work.
    """
    unknown = settings.keys() - inspect.signature(AutoencoderKL).parameters.keys()
    if unknown:
        raise CheckpointError(f"{source} has settings that an autoencoder does not know: {shorten(sorted(unknown))}")
    try:
        with torch.device("meta"):
            return AutoencoderKL(**settings)
    except ConfigError as error:
        raise CheckpointError(f"{source} has settings that cannot work: {error}") from None


def fill_autoencoder(vae: AutoencoderKL, weights: Mapping[str, Tensor], *, source: object) -> AutoencoderKL:
    """Load weights strictly into an autoencoder of :func:`empty_autoencoder`.

    Args:
        vae: The autoencoder on the meta device.
        weights: Its state dict.
        source: Origin of the weights, for the error message.

    Returns:
        The autoencoder, float32, on the CPU, frozen and in evaluation mode.

    Raises:
        CheckpointError: If the weights do not fit.
    """
    # First, so that no more is allocated than the file holds.
    check_weights(vae, weights, source)
    # Strict: every empty tensor must be filled.
    vae.to_empty(device="cpu")
    load_strictly(vae, weights, source)
    return vae.eval().requires_grad_(False)


def weights_checksum(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of weights: their names, shapes and float32 values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().float().cpu().contiguous()
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.flatten().numpy().data)
    return digest.hexdigest()


def _checksum(vae: AutoencoderKL) -> str:
    """Return the checksum of an autoencoder; that of the weights alone if its latents are not scaled."""
    weights = vae.state_dict()
    if vae.scaling != UNSCALED:
        weights["scaling"] = torch.tensor(vae.scaling)
    return weights_checksum(weights)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a torch or safetensors file; return its content and, for safetensors, its metadata."""
    return read_tensors(path) if path.suffix == ".safetensors" else (load_checkpoint(path), {})


def _slim_metadata(path: Path, metadata: Mapping[str, str]) -> tuple[dict[str, Any], str | None]:
    """Read settings and checksum that :meth:`VAECodec.export` wrote; empty for other files."""
    if metadata.get("format") != _SLIM_FORMAT:
        return {}, None
    try:
        return {str(name): value for name, value in parse_json(metadata["config"]).items()}, metadata["checksum"]
    except (KeyError, ValueError, AttributeError):
        raise CheckpointError(f"{path} says it is a slim autoencoder, but its settings cannot be read") from None
