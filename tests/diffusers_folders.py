"""Small autoencoders in the folders of diffusers, with random weights under diffusers' names."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

CONFIG = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.42.1",
    "act_fn": "silu",
    "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "scaling_factor": 0.18215,
}
FLUX = {
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


def write_folder(folder: Path, **settings) -> Path:
    """Write ``config.json`` and ``diffusion_pytorch_model.safetensors`` of an autoencoder; return the folder."""
    config = {**CONFIG, **settings}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    draws = torch.Generator().manual_seed(0)
    weights = {}
    for layer, shape in _layers(config):
        # Weights of a normalisation are close to 1.
        values = torch.randn(shape, generator=draws)
        weights[f"{layer}.weight"] = values / values[0].numel() ** 0.5 if len(shape) > 1 else 1 + 0.1 * values
        weights[f"{layer}.bias"] = 0.1 * torch.randn(shape[0], generator=draws)
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    return folder


def _layers(config):
    """Yield each layer's name and the shape of its weight."""
    widths, z, num = config["block_out_channels"], config["latent_channels"], config["layers_per_block"]
    yield "encoder.conv_in", (widths[0], 3, 3, 3)
    before = widths[0]
    for i, width in enumerate(widths):
        for j in range(num):
            yield from _block(f"encoder.down_blocks.{i}.resnets.{j}", before, width)
            before = width
        if i < len(widths) - 1:
            yield f"encoder.down_blocks.{i}.downsamplers.0.conv", (width, width, 3, 3)
    yield from _middle("encoder", before)
    yield "encoder.conv_norm_out", (before,)
    yield "encoder.conv_out", (2 * z, before, 3, 3)
    yield "decoder.conv_in", (before, z, 3, 3)
    yield from _middle("decoder", before)
    for i, width in enumerate(reversed(widths)):
        for j in range(num + 1):
            yield from _block(f"decoder.up_blocks.{i}.resnets.{j}", before, width)
            before = width
        if i < len(widths) - 1:
            yield f"decoder.up_blocks.{i}.upsamplers.0.conv", (width, width, 3, 3)
    yield "decoder.conv_norm_out", (before,)
    yield "decoder.conv_out", (3, before, 3, 3)
    for name, size in (("quant_conv", 2 * z), ("post_quant_conv", z)):
        if config.get(f"use_{name}", True):
            yield name, (size, size, 1, 1)


def _block(name, before, width):
    yield f"{name}.norm1", (before,)
    yield f"{name}.conv1", (width, before, 3, 3)
    yield f"{name}.norm2", (width,)
    yield f"{name}.conv2", (width, width, 3, 3)
    if before != width:
        yield f"{name}.conv_shortcut", (width, before, 1, 1)


def _middle(part, width):
    for i in range(2):
        yield from _block(f"{part}.mid_block.resnets.{i}", width, width)
    attention = f"{part}.mid_block.attentions.0"
    yield f"{attention}.group_norm", (width,)
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        yield f"{attention}.{name}", (width, width)
