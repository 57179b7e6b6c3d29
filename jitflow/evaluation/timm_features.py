"""Features of any timm backbone, such as DINOv2, with weights from a local file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from jitflow.errors import CheckpointError, ConfigError, unknown_name
from jitflow.evaluation.features import Features, check_images
from jitflow.evaluation.resize import resize
from jitflow.io.files import existing_file, file_checksum, load_checkpoint
from jitflow.io.safetensors_file import read_tensors


class TimmExtractor:
    """A network of timm as a feature extractor; nothing is ever downloaded.

    Images are resized to the network's training size (directly, with its own interpolation and without a crop, so the
    borders count too) and normalised with its own mean and standard deviation. Features are the input of the network's
    classifier; if the file holds a classifier, there are logits too.

    FD-DINOv2 is the Frechet distance of ``vit_large_patch14_dinov2`` at ``img_size=224``, the size of the paper and
    of EDM2; timm's own is 518. The position embeddings of DINOv2 without registers are resized as Meta's code
    does, not as timm does.

    Args:
        model_name: Name in ``timm.list_models()``, with or without the tag of its weights.
        weights_path: ``.safetensors``, or a torch file that holds only tensors, at the top level or under
            ``state_dict`` or ``model``; with timm's names (as in Meta's DINOv2 files).
        img_size: Side of the network's input; None takes timm's setting.

    Raises:
        ConfigError: If timm is not installed or knows no such model, or the network cannot work at the size.
        MissingFileError: If there is no such file.
        CheckpointError: If the file is damaged or does not hold exactly the weights of this model.

    References:
        Stein et al. 2023, arXiv:2306.04675 (DINOv2 in place of Inception); Oquab et al. 2023, arXiv:2304.07193.
    """

    def __init__(self, model_name: str, weights_path: str | Path, *, img_size: int | None = None) -> None:
        settings = _settings(model_name)
        if img_size is not None and img_size < 1:
            raise ConfigError(f"img_size must be at least 1; got {img_size}")
        path = existing_file(weights_path, what="weights file")
        weights = _read(path)
        own_size_px: tuple[int, int] = tuple(settings["input_size"][1:])
        self._size_px = own_size_px if img_size is None else (img_size, img_size)
        self._net = _build(model_name, settings, weights, path)
        if self._size_px != own_size_px:
            _resize(self._net, model_name, self._size_px)
        self._net.eval().requires_grad_(False)
        self._mean, self._std = (torch.tensor(settings[key]).view(-1, 1, 1) for key in ("mean", "std"))
        self._interpolation = "bilinear" if settings["interpolation"] == "bilinear" else "bicubic"
        # The "classifier" of a CLIP network that was not trained to classify projects into the space of its texts.
        projects = "_clip_" in model_name and "_ft_" not in model_name
        self._classifies = bool(getattr(self._net, "num_classes", 0)) and not projects
        self._device = torch.device("cpu")
        height, width = self._size_px
        self.name = f"{model_name}@{height}" if height == width else f"{model_name}@{height}x{width}"
        self.checksum: str | None = file_checksum(path)
        self.preprocessing: dict[str, Any] = {
            "size_px": list(self._size_px),
            "filter": self._interpolation,
            "antialias": True,
            "mean": list(settings["mean"]),
            "std": list(settings["std"]),
            "feature": _feature_of(self._net),
            "source": f"timm's settings of {model_name}, resized without a crop",
        }
        self.dim = self._probe_dim(model_name)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Run the network.

        Args:
            images: Shape ``(B, C, H, W)``, uint8, of any size; C is 3, or 1, which is repeated.

        Returns:
            Features, shape ``(B, dim)``, float32; logits, shape ``(B, K)``, if the weights include a classifier.
        """
        pixels = resize(check_images(images).expand(-1, 3, -1, -1), self._size_px, self._interpolation)
        with torch.autocast(self._device.type, enabled=False):
            maps: Any = self._net.forward_features((pixels / 255 - self._mean) / self._std)  # type: ignore[operator]
            features = self._net.forward_head(maps, pre_logits=True)  # type: ignore[operator]
            logits = self._net.forward_head(maps) if self._classifies else None  # type: ignore[operator]
        return Features(features, logits)

    def to(self, device: torch.device | str) -> TimmExtractor:
        """Move the network, in place, and return itself."""
        self._device = torch.device(device)
        self._net.to(self._device)
        self._mean, self._std = self._mean.to(self._device), self._std.to(self._device)
        return self

    def _probe_dim(self, model_name: str) -> int:
        """Find the feature dimension with a blank image, so that an unusable size fails before long work starts."""
        try:
            features = self(torch.zeros(1, 3, *self._size_px, dtype=torch.uint8)).features
        # Networks react differently to an unsupported size.
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).split("\n")[0] or type(error).__name__
            raise ConfigError(
                f"{model_name} gives no features at {self._size_px} ({reason}); try its own size"
            ) from None
        if features.ndim != 2:
            raise ConfigError(f"{model_name} gives features of shape {tuple(features.shape)}, not one vector per image")
        return features.shape[1]


def _feature_of(net: nn.Module) -> str:
    """Return which output of a network is the feature: what its classifier would get."""
    pools = {
        "token": "class token after the last norm",
        "avg": "mean over patches or places",
        "map": "attention pooling",
        "": "all places",
    }
    pool = getattr(net, "global_pool", None)
    if not isinstance(pool, str):
        # Convolutional networks pool in their head.
        pool = getattr(getattr(net, "head", None), "global_pool", pool)
        pool = str(getattr(pool, "pool_type", ""))
    return pools.get(pool, f"pooling {pool!r}") if pool else "the input of the classifier"


def _settings(model_name: str) -> dict[str, Any]:
    if importlib.util.find_spec("timm") is None:
        raise ConfigError("features from a timm model need timm; pip install 'jitflow[eval]'")
    import timm
    from timm.models import get_pretrained_cfg

    # A name such as hf-hub:... would make timm download the settings.
    architecture, _, tag = model_name.partition(".")
    if architecture not in timm.list_models():
        raise unknown_name("timm model", model_name, timm.list_models(), hint="see timm.list_models().")
    try:
        settings = get_pretrained_cfg(model_name)
    except RuntimeError as error:
        raise ConfigError(f"timm knows no weights {tag!r} of {architecture} ({error})") from None
    if settings is None:
        raise ConfigError(f"timm has no settings for {model_name}, so its preprocessing is unknown; choose another")
    return settings.to_dict()


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        weights: dict[str, Any] = read_tensors(path)[0]
    else:
        weights = load_checkpoint(path)
        for key in ("state_dict", "model"):
            if isinstance(weights.get(key), dict):
                weights = weights[key]
    # DINOv2 uses it in training only; Meta's file has it, timm's does not.
    return {name: value for name, value in weights.items() if name != "mask_token"}


def _build(model_name: str, settings: dict[str, Any], weights: dict[str, Any], path: Path) -> nn.Module:
    import timm

    head = settings.get("classifier") or ""
    classifier = weights.get(f"{head if isinstance(head, str) else head[0]}.weight")
    num_classes = len(classifier) if isinstance(classifier, Tensor) else 0
    # Random initialisation of its layers must not advance the global generator of a training.
    with torch.random.fork_rng(devices=()):
        net: nn.Module = timm.create_model(model_name, pretrained=False, num_classes=num_classes)
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        wrong = [line.strip() for line in str(error).splitlines()[1:]]
        raise CheckpointError(
            f"{path} does not hold the weights of {model_name} ({wrong[0][:120] if wrong else error}); take the file "
            f"that timm itself uses, model.safetensors of huggingface.co/timm/{model_name}"
        ) from None
    return net


def _resize(net: nn.Module, model_name: str, size_px: tuple[int, int]) -> None:
    """Resize a network's position embeddings for another image size; other networks need no change."""
    if not hasattr(net, "set_input_size"):
        return
    embedding = getattr(net, "pos_embed", None)
    try:
        net.set_input_size(img_size=size_px)  # type: ignore[operator]
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"{model_name} cannot be brought to {size_px} ({error})") from None
    if "_patch14_dinov2" in model_name and isinstance(embedding, Tensor):
        patches: Any = net.patch_embed
        height, width = patches.grid_size
        net.pos_embed = nn.Parameter(resize_dinov2_positions(embedding.detach(), height, width))


def resize_dinov2_positions(embedding: Tensor, height: int, width: int) -> Tensor:
    """Resize position embeddings as Meta's DINOv2 (without registers) does.

    Unlike timm, it does not smooth before shrinking, and it samples for a grid that is larger by 0.1; published
    FD-DINOv2 scores use these embeddings.

    Args:
        embedding: Shape ``(1, 1 + S * S, D)``, that of the class token first.
        height: Rows of the new grid, in patches.
        width: Columns of the new grid, in patches.

    Returns:
        Shape ``(1, 1 + height * width, D)``.

    References:
        ``interpolate_pos_encoding`` in github.com/facebookresearch/dinov2.
    """
    side = round((embedding.shape[1] - 1) ** 0.5)
    grid = embedding[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    scale = ((height + 0.1) / side, (width + 0.1) / side)
    resized = interpolate(grid.float(), scale_factor=scale, mode="bicubic")
    return torch.cat([embedding[:, :1], resized.flatten(2).mT.to(embedding.dtype)], dim=1)
