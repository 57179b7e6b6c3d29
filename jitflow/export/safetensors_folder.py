"""Export as safetensors: the weights, bit by bit, for ``jitflow.load``."""

from __future__ import annotations

from pathlib import Path

from jitflow.checkpoint.find import WEIGHTS_NAME
from jitflow.checkpoint.formats import write_state
from jitflow.checkpoint.state import ModelState
from jitflow.codec.latent import LatentCodec
from jitflow.codec.vae import VAECodec
from jitflow.training.module import FlowModule

CODEC_NAME = "codec.safetensors"
LIBRARY = "jitflow"
USAGE = (
    "```python\nimport jitflow\n\nmodel = jitflow.load('model.safetensors')\n"
    "model.sample(labels=[0, 1], seeds=[0, 1]).save('images')\n```"
)


def write_safetensors(folder: Path, state: ModelState, module: FlowModule, ema: int | str) -> None:
    """Write the weights, and the autoencoder of a model that works on latents.

    Args:
        folder: Target folder.
        state: State of the checkpoint.
        module: The model, for its codec.
        ema: Average to write, 1 or 2; 0 for the weights themselves; ``"all"`` for all of them.
    """
    write_state(state, folder / WEIGHTS_NAME, ema=ema)
    write_codec(folder, module)


def write_codec(folder: Path, module: FlowModule) -> None:
    """Save an autoencoder beside the weights; a linear codec is already stored with them.

    Args:
        folder: Target folder.
        module: The model.
    """
    if isinstance(module.codec, LatentCodec) and isinstance(module.codec.images, VAECodec):
        module.codec.images.export(folder / CODEC_NAME)
