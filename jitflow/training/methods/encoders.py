"""Frozen encoders of loss terms by name, from local files."""

from __future__ import annotations

from functools import cache

from torch import Tensor

from jitflow.codec.pixel import PixelCodec
from jitflow.data.digits import digits_arrays
from jitflow.encoders import digits
from jitflow.encoders.maps import MapEncoder, TimmMaps
from jitflow.encoders.timm_network import parse_timm_spec
from jitflow.errors import ConfigError, unknown_name
from jitflow.training.loss import FlowLoss

ENCODER_FORMS = ("timm:MODEL[@SIDE]:PATH", "digits")


def make_encoder(spec: str, layer: int = -1) -> MapEncoder:
    """Build the encoder of a loss term from its name in a recipe.

    Args:
        spec: ``timm:MODEL:PATH``, with ``MODEL@SIDE`` for images of another size than the model's own, such as
            ``timm:vit_base_patch14_dinov2@224:dinov2_base.safetensors``; or ``digits``, a small classifier that is
            trained on the built-in scans in seconds.
        layer: Layer of a network of timm, counted from 0, or from the end if negative.

    Raises:
        ConfigError: If the name is unknown or incomplete, or a package is not installed.
        MissingFileError: If there is no such file.
        CheckpointError: If the file does not hold the network's weights.
    """
    kind, _, argument = spec.partition(":")
    if kind == "digits" and not argument:
        if layer != -1:
            raise ConfigError(f"layer must be -1 for the encoder digits, which has one map; got {layer}")
        return digits.DigitsMaps(_digits_weights())
    if kind == "timm":
        model, side, path = parse_timm_spec(argument)
        return TimmMaps(model, path, side, layer)
    raise unknown_name("encoder", spec, ("timm", "digits"), hint=f"Forms: {', '.join(ENCODER_FORMS)}.")


@cache
def _digits_weights() -> dict[str, Tensor]:
    """Train the classifier of digits, once in a process."""
    return digits.train_weights(*digits_arrays("train"))


def check_pixels(module: FlowLoss, term: str) -> None:
    """Check that a module works on pixels, which encoders and perceptual distances need.

    Args:
        module: The module.
        term: Name of the loss term, for the message.

    Raises:
        ConfigError: If its model space is another, such as latents.
    """
    if not isinstance(module.codec, PixelCodec):
        raise ConfigError(
            f"the loss term {term} compares pixels, but this model works in the space of "
            f"{type(module.codec).__name__}; leave it out"
        )
