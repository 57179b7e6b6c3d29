"""Autoencoder of a diffusers folder, such as SD-VAE, SDXL's or FLUX.1's, without diffusers.

The folder holds ``config.json`` and ``diffusion_pytorch_model.safetensors``. The network is that of
:class:`~jitflow.nets.autoencoder_kl.AutoencoderKL` under other parameter names; its latents are scaled and shifted as
diffusers' pipelines do it before a network sees them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jitflow.codec.vae import empty_autoencoder, fill_autoencoder
from jitflow.errors import CheckpointError, JitflowError, MissingFileError
from jitflow.io.files import read_json, user_path
from jitflow.io.safetensors_file import read_tensors
from jitflow.layers.residual import NUM_GROUPS
from jitflow.nets.autoencoder_kl import AutoencoderKL
from jitflow.nets.weights import shorten

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
CLASS_NAME = "AutoencoderKL"
# What the network is built for; diffusers' defaults, so a config.json may leave them out.
_ONLY = {
    "act_fn": "silu",
    "norm_num_groups": NUM_GROUPS,
    "mid_block_add_attention": True,
    "latents_mean": None,
    "latents_std": None,
}
_BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
# Names of diffusers until 0.13, which published files still have.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# Ours to diffusers'; a decoder's levels are counted from the other end, which is done beside these.
_RENAMED = (
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
)


def find_autoencoder_folder(path: str | Path) -> Path | None:
    """Return the diffusers folder that a path names, itself or by the weights in it; None for any other file.

    Args:
        path: A file or folder; ``~`` is home.

    Raises:
        MissingFileError: If it is a folder without an autoencoder; the message says what is expected.
    """
    path = user_path(path)
    if path.is_file():
        return path.parent if path.name == WEIGHTS_NAME and (path.parent / CONFIG_NAME).is_file() else None
    if not path.is_dir():
        return None
    missing = [name for name in (CONFIG_NAME, WEIGHTS_NAME) if not (path / name).is_file()]
    if not missing:
        return path
    if (path / "vae" / CONFIG_NAME).is_file():
        raise MissingFileError(f"{path} is a whole pipeline; name the folder of its autoencoder, {path / 'vae'}")
    raise MissingFileError(
        f"image codec {path} is a folder without {' and '.join(missing)}; name a file, or the folder of a diffusers "
        "autoencoder"
    )


def load_diffusers_autoencoder(folder: str | Path) -> AutoencoderKL:
    """Load an autoencoder from a diffusers folder, strictly; diffusers is not needed.

    Its latents are ``(z - shift_factor) * scaling_factor`` with the folder's numbers, and decoding inverts that.

    Args:
        folder: Folder with ``config.json`` and ``diffusion_pytorch_model.safetensors``.

    Returns:
        The autoencoder, float32, on the CPU, in evaluation mode.

    Raises:
        MissingFileError: If a file is missing.
        CheckpointError: If a file is damaged, describes another kind of network, or the weights do not fit the
            description; the message names the parameters that are missing or not expected.

    References:
        diffusers 0.42, ``AutoencoderKL`` (names and settings); Rombach et al. 2022, arXiv:2112.10752; Black Forest
        Labs' FLUX.1 (16 channels, shift, no quantisation convolutions).
    """
    folder = user_path(folder)
    vae, config = describe_autoencoder(folder)
    # The network always has these convolutions; where the folder has none, they change nothing.
    identity = {
        f"{name}.{part}": value
        for name, size in (("quant_conv", 2 * vae.embed_dim), ("post_quant_conv", vae.embed_dim))
        for part, value in (("weight", torch.eye(size)[:, :, None, None]), ("bias", torch.zeros(size)))
        if config.get(f"use_{name}", True) is False
    }
    own_names = [name for name in vae.state_dict() if name not in identity]
    weights, _ = read_tensors(folder / WEIGHTS_NAME)
    found = _renamed(weights, own_names, len(vae.config["ch_mult"]), folder / WEIGHTS_NAME)
    return fill_autoencoder(vae, {**found, **identity}, source=folder / WEIGHTS_NAME)


def describe_autoencoder(folder: Path) -> tuple[AutoencoderKL, dict[str, Any]]:
    """Read the description of an autoencoder, not its weights.

    Args:
        folder: The diffusers folder.

    Returns:
        The autoencoder without weights, on the meta device, and the content of its ``config.json``.

    Raises:
        MissingFileError: If there is no description.
        CheckpointError: If it is damaged, or describes another kind of network.
    """
    path = folder / CONFIG_NAME
    config = _read_config(path)
    return empty_autoencoder(_settings(config, path), source=path), config


def _read_config(path: Path) -> dict[str, Any]:
    """Read the description of the network; raise CheckpointError for that of another kind of network."""
    try:
        config = read_json(path)
    except MissingFileError:
        raise
    except JitflowError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(config, dict) or config.get("_class_name", CLASS_NAME) != CLASS_NAME:
        kind = config.get("_class_name") if isinstance(config, dict) else f"a {type(config).__name__}"
        raise CheckpointError(f"{path} describes {str(kind)[:80]}, and only {CLASS_NAME} is read as an image codec")
    for name, expected in _ONLY.items():
        if config.get(name, expected) != expected:
            raise CheckpointError(f"{path}: {name} must be {expected}; {str(config[name])[:80]} is not supported")
    for name, expected in _BLOCKS.items():
        blocks = config.get(name)
        if not isinstance(blocks, list) or any(block != expected for block in blocks):
            raise CheckpointError(f"{path}: {name} must all be {expected}; {str(blocks)[:80]} is not supported")
    return config


def _settings(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Translate diffusers' settings; their types and ranges are checked where the network is built."""
    widths = config.get("block_out_channels")
    if (
        not isinstance(widths, list)
        or not widths
        or not all(type(width) is int and width > 0 for width in widths)
        or any(width % widths[0] for width in widths)
        or any(len(config[name]) != len(widths) for name in _BLOCKS)
    ):
        raise CheckpointError(
            f"{path}: block_out_channels must be a list of multiples of its first number, one for each block; got "
            f"{str(widths)[:80]}"
        )
    if config.get("out_channels", 3) != config.get("in_channels", 3):
        raise CheckpointError(f"{path}: in_channels and out_channels differ, which is not supported")
    shift = config.get("shift_factor")
    return {
        "embed_dim": config.get("latent_channels", 4),
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": config.get("layers_per_block", 1),
        # Attention in the middle only.
        "attn_resolutions": [],
        "in_channels": config.get("in_channels", 3),
        "scaling_factor": config.get("scaling_factor", 0.18215),
        "shift_factor": 0.0 if shift is None else shift,
    }


def _new_name(name: str) -> str:
    """Return today's name of a parameter of diffusers."""
    return re.sub(r"(\.attentions\.0\.)(query|key|value|proj_attn)\.", lambda m: f"{m[1]}{_OLD_ATTENTION[m[2]]}.", name)


def _diffusers_name(own: str, num_levels: int) -> str:
    """Return diffusers' name of a parameter of ours."""
    own = re.sub(r"\.up\.(\d+)\.", lambda m: f".up.{num_levels - 1 - int(m[1])}.", own)
    for pattern, replacement in _RENAMED:
        own = re.sub(pattern, replacement, own)
    return own


def _renamed(
    weights: Mapping[str, Tensor], own_names: Sequence[str], num_levels: int, source: Path
) -> dict[str, Tensor]:
    """Give diffusers' parameters our names; raise CheckpointError, in diffusers' words, if they are not the same."""
    found = {_new_name(name): value for name, value in weights.items()}
    names = {_diffusers_name(own, num_levels): own for own in own_names}
    wrong = [
        f"{kind}: {shorten(sorted(parameters))}"
        for kind, parameters in (
            ("missing", names.keys() - found.keys()),
            ("not expected", found.keys() - names.keys()),
        )
        if parameters
    ]
    if wrong:
        raise CheckpointError(f"{source} does not fit the {CONFIG_NAME} beside it; {'; '.join(wrong)}")
    # Projections of an attention are matrices there and 1x1 convolutions here.
    return {
        own: found[name][:, :, None, None] if ".attentions." in name and found[name].dim() == 2 else found[name]
        for name, own in names.items()
    }
