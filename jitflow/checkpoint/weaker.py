"""Load a weaker model for autoguidance: smaller, or of an earlier step of the training.

References:
    Karras et al. 2024, arXiv:2406.02507.
"""

from __future__ import annotations

from pathlib import Path

from jitflow.checkpoint.load import load_module
from jitflow.errors import ConfigError
from jitflow.training.module import FlowModule


def load_weaker_model(path: str | Path, strong: FlowModule) -> FlowModule:
    """Load a model to guide another away from, with its first average as its weights.

    Args:
        path: Its checkpoint.
        strong: The model to guide.

    Returns:
        The weaker model, on the device of the other.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it is damaged.
        ConfigError: If it makes other samples, or its velocity depends on earlier steps.
    """
    weak = load_module(path)
    pairs = {
        name: (getattr(weak, name), getattr(strong, name)) for name in ("num_classes", "noise_scale", "transports")
    }
    pairs["shape"] = (weak.codec.shape, strong.codec.shape)
    pairs["conditions"] = (weak.conditions, strong.conditions)
    for name, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise ConfigError(
                f"autoguide {path} has {name} {theirs} and this model {ours}; take a smaller or younger model of the "
                "same training"
            )
    if weak.takes_hints or strong.takes_hints:
        raise ConfigError("autoguide takes no models with self-conditioning")
    if weak.ema_params1:
        weak.load_state_dict({**weak.state_dict(), **weak.ema_params1})
    return weak.to(strong.device)
