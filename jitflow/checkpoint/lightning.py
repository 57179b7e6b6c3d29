"""Lightning checkpoints, which hold everything to resume from; the ``.pth`` files of a run are of this kind too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning

from jitflow import __version__
from jitflow.applications import application_name
from jitflow.checkpoint.jit_release import release_args
from jitflow.checkpoint.state import PEAK_LR, ModelState
from jitflow.training.lightning_counters import counters_between_epochs


def is_lightning(content: Mapping[str, Any]) -> bool:
    """Whether the entries of a checkpoint are those of a Lightning checkpoint."""
    return "state_dict" in content and "hyper_parameters" in content


def from_lightning(checkpoint: dict[str, Any], given: Mapping[str, Any]) -> ModelState:
    """Read a Lightning checkpoint.

    Args:
        checkpoint: Its entries.
        given: Settings that override the file's.

    Returns:
        The model; ``extra`` holds the whole entry ``jitflow``.
    """
    record = checkpoint.get("jitflow", {})
    return ModelState(
        settings={**checkpoint["hyper_parameters"], **given},
        weights=checkpoint["state_dict"],
        ema1=checkpoint.get("model_ema1"),
        ema2=checkpoint.get("model_ema2"),
        optimizer=(checkpoint.get("optimizer_states") or [None])[0],
        epoch=int(checkpoint.get("epoch", -1)),
        step=int(checkpoint.get("global_step", 0)),
        args=dict(checkpoint.get("args", {})),
        lightning=checkpoint,
        application=record.get("application", ""),
        module=record.get("module", ""),
        extra=dict(record),
    )


def recorded_application(checkpoint: Mapping[str, Any]) -> str:
    """Return the name of the application that a Lightning checkpoint records; empty if it records none.

    Args:
        checkpoint: Its entries.
    """
    record = checkpoint.get("jitflow", {})
    return application_name(record.get("application") or record.get("module", ""), default="")


def to_lightning(state: ModelState) -> dict[str, Any]:
    """Convert a model to a checkpoint from which Lightning resumes with the epoch after ``state.epoch``."""
    named = {"application": state.application, "module": state.module}
    if state.lightning is not None:
        return {**state.lightning, "jitflow": {**state.lightning.get("jitflow", {}), **named}}
    checkpoint: dict[str, Any] = {
        "epoch": state.epoch,
        "global_step": state.step,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": state.weights,
        "loops": counters_between_epochs(state.epoch + 1, state.step),
        "callbacks": {},
        "lr_schedulers": [],
        "optimizer_states": [],
        "hparams_name": "kwargs",
        "hyper_parameters": state.settings,
        "jitflow": {**state.extra, "version": __version__, **named, "run_seed": None},
        "model": state.weights,
        "args": state.args or release_args(state.settings),
    }
    for key, average in (("model_ema1", state.ema1), ("model_ema2", state.ema2)):
        if average is not None:
            checkpoint[key] = average
    if state.optimizer is not None:
        peak = state.settings.get("learning_rate")
        groups = [{**group, PEAK_LR: peak or group["lr"]} for group in state.optimizer["param_groups"]]
        checkpoint["optimizer_states"] = [{"state": state.optimizer["state"], "param_groups": groups}]
        checkpoint["optimizer"] = checkpoint["optimizer_states"][0]
    return checkpoint
