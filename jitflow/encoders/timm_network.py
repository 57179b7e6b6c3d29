"""Networks of timm, such as DINOv2, with weights from a local file."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from jitflow.errors import CheckpointError, ConfigError, unknown_name
from jitflow.io.files import existing_file, file_checksum, load_checkpoint
from jitflow.io.safetensors_file import read_tensors


@dataclass(frozen=True)
class TimmNetwork:
    """A frozen network of timm, and what it expects of its input.

    Attributes:
        net: The network, in evaluation mode, on the CPU.
        name: Name of the model with its input size, such as ``vit_base_patch14_dinov2@224``.
        size_px: Height and width of its input.
        mean: Mean of its input's channels, for pixels in ``[0, 1]``, shape ``(3, 1, 1)``.
        std: Standard deviation of its input's channels, shape ``(3, 1, 1)``.
        interpolation: ``bilinear`` or ``bicubic``.
        checksum: SHA-256 of the weights file.
    """

    net: nn.Module
    name: str
    size_px: tuple[int, int]
    mean: Tensor
    std: Tensor
    interpolation: str
    checksum: str


def read_timm_network(model_name: str, weights_path: str | Path, img_size: int | None = None) -> TimmNetwork:
    """Build a network of timm from a local file of weights; nothing is ever downloaded.

    The position embeddings of DINOv2 without registers are resized as Meta's code does, not as timm does.

    Args:
        model_name: Name in ``timm.list_models()``, with or without the tag of its weights.
        weights_path: ``.safetensors``, or a torch file that holds only tensors, at the top level or under
            ``state_dict`` or ``model``; with timm's names (as in Meta's DINOv2 files).
        img_size: Side of the network's input; None takes timm's setting.

    Raises:
        ConfigError: If timm is not installed or knows no such model, or the network cannot work at the size.
        MissingFileError: If there is no such file.
        CheckpointError: If the file is damaged or does not hold exactly the weights of this model.
    """
    settings = _settings(model_name)
    if img_size is not None and img_size < 1:
        raise ConfigError(f"img_size must be at least 1; got {img_size}")
    path = existing_file(weights_path, what="weights file")
    own_size_px: tuple[int, int] = tuple(settings["input_size"][1:])
    size_px = own_size_px if img_size is None else (img_size, img_size)
    # A training is first checked without memory for its model; the file is read even then.
    with torch.device("cpu"):
        net = _build(model_name, settings, _read(path), path)
        if size_px != own_size_px:
            _resize(net, model_name, size_px)
        mean, std = (torch.tensor(settings[key]).view(-1, 1, 1) for key in ("mean", "std"))
    height, width = size_px
    return TimmNetwork(
        net.eval().requires_grad_(False),
        f"{model_name}@{height}" if height == width else f"{model_name}@{height}x{width}",
        size_px,
        mean,
        std,
        "bilinear" if settings["interpolation"] == "bilinear" else "bicubic",
        file_checksum(path),
    )


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
    # Random initialisation of its layers must not advance the global generator of a training.
    with torch.random.fork_rng(devices=()):
        net: nn.Module = timm.create_model(
            model_name, pretrained=False, num_classes=len(classifier) if isinstance(classifier, Tensor) else 0
        )
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


def parse_timm_spec(argument: str) -> tuple[str, int | None, str]:
    """Split ``MODEL[@SIDE]:PATH`` into the model's name, the side of its input, and the weights file.

    Args:
        argument: The text; a path may contain colons.

    Raises:
        ConfigError: If a part is missing, or the side is no whole number.
    """
    model, _, path = argument.partition(":")
    name, at, side = model.partition("@")
    if not name or not path:
        raise ConfigError(f"timm:{argument} must be timm:MODEL:PATH; jitflow reads weights from a file only")
    if at and not side.isdecimal():
        raise ConfigError(f"timm:{argument}: {side!r} is no whole number of pixels")
    return name, int(side) if at else None, path
