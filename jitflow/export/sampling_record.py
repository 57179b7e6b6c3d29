"""Record of an export that says how its model samples: noise, solver, guidance and labels."""

from __future__ import annotations

from typing import Any

from jitflow.training.module import FlowModule


def sampling_record(module: FlowModule) -> dict[str, Any]:
    """Return everything that, with weights, label and seed, determines an image: the sampling settings.

    Args:
        module: The model.

    Returns:
        Plain values: shape and scale of the noise, solver, steps, guidance, labels, rounding.
    """
    record: dict[str, Any] = {
        "shape": list(module.codec.shape),
        "noise": "torch.Generator().manual_seed(seed) on the CPU, one for each image, standard normal, float32",
        "noise_scale": module.noise_scale,
        "time": "0 is noise, 1 is data",
        "solver": module.sampling_method,
        "steps": module.num_sampling_steps,
        "time_shift": module.time_shift,
        "guidance": module.cfg_scale,
        "interval": list(module.cfg_interval),
        "guided_channels": module.cfg_channels,
        "num_classes": module.num_classes,
        "null_label": module.num_classes,
    }
    if module.transports:
        record["noise"] = "none: paths begin from images of the source"
    if module.conditions is not None:
        record["conditions"] = module.conditions.to_record()
    return {**record, **module.describe_labels()}
