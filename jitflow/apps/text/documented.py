"""Settings derived from the documented training options of text as colour."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch

from jitflow.errors import ConfigError

_PROJECT = "jit-diffusion"


def derive_settings(given: Mapping[str, Any], resumed: bool) -> dict[str, Any]:
    """Derive the precision from ``use_amp``, and the settings of Weights & Biases from ``use_wandb``.

    Args:
        given: Values by documented option and by dotted name.
        resumed: Whether a run is resumed, which keeps its precision unless an option changes it.

    Returns:
        Settings by dotted name.

    Raises:
        ConfigError: If two options contradict each other, or Weights & Biases is not installed.
    """
    settings: dict[str, Any] = {}
    precision = given.get("precision", given.get("trainer.precision"))
    accelerator = given.get("accelerator", given.get("trainer.accelerator"))
    if given.get("use_amp") is False:
        if precision not in (None, "32-true"):
            raise ConfigError(f"use_amp false means full precision, but precision is {precision}; give one of them")
        settings["trainer.precision"] = "32-true"
    elif precision is None and not resumed and accelerator != "cpu" and torch.cuda.is_available():
        settings["trainer.precision"] = "bf16-mixed"
    if "tokenizer" in given and "tokenizer_path" in given:
        raise ConfigError("tokenizer and tokenizer_path are the same setting; give one of them")
    if given.get("use_wandb"):
        if importlib.util.find_spec("wandb") is None:
            raise ConfigError("use_wandb needs the package wandb; pip install wandb, or leave use_wandb out")
        settings["logging.wandb"] = {
            "project": given.get("wandb_project", _PROJECT),
            "name": given.get("wandb_name"),
            "entity": given.get("wandb_entity"),
        }
    return settings
