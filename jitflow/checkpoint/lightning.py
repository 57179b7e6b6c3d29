"""Lightning checkpoints, which hold everything to resume from; the ``.pth`` files of a run are of this kind too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import lightning

from jitflow import __version__
from jitflow.applications import application_name
from jitflow.checkpoint.jit_release import read_optimizer, release_args
from jitflow.checkpoint.names import strip_wrappers
from jitflow.checkpoint.optimizer_state import problem_of_optimizer
from jitflow.checkpoint.state import PEAK_LR, ModelState
from jitflow.training.lightning_counters import counters_between_epochs

_STATE_DICTS = ("state_dict", "model_ema1", "model_ema2")


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
    ours = {name: _unwrapped(checkpoint[name]) for name in _STATE_DICTS if checkpoint.get(name) is not None}
    optimizer, left_out = _optimizer(checkpoint, ours["state_dict"])
    renamed = any(list(ours[name]) != list(checkpoint[name]) for name in ours)
    if renamed:
        checkpoint = {**checkpoint, **ours}
    state = ModelState(
        settings={**checkpoint["hyper_parameters"], **given},
        weights=ours["state_dict"],
        ema1=ours.get("model_ema1"),
        ema2=ours.get("model_ema2"),
        optimizer=optimizer,
        optimizer_left_out=left_out,
        epoch=int(checkpoint.get("epoch", -1)),
        step=int(checkpoint.get("global_step", 0)),
        args=dict(checkpoint.get("args", {})),
        lightning=checkpoint,
        is_adapted=renamed,
        application=record.get("application", ""),
        module=record.get("module", ""),
        extra=dict(record),
    )
    return state if optimizer is _first_optimizer(checkpoint) else with_optimizer(state, optimizer, left_out)


def with_optimizer(state: ModelState, optimizer: dict[str, Any] | None, left_out: str = "") -> ModelState:
    """Return a model with another optimiser state, also in its Lightning checkpoint.

    Args:
        state: The model.
        optimizer: State dict of an optimiser; None for none.
        left_out: Why there is none, as a short phrase.
    """
    changed = replace(state, optimizer=optimizer, optimizer_left_out=left_out)
    if state.lightning is None:
        return changed
    states = [] if optimizer is None else [optimizer]
    entries = {**state.lightning, "optimizer_states": states}
    if optimizer is None:
        entries.pop("optimizer", None)
    else:
        entries["optimizer"] = optimizer
    return replace(changed, lightning=entries, is_adapted=True)


def _unwrapped(tensors: Any) -> dict[str, Any]:
    """Return a state dict without prefixes of wrappers; the same object if it has none."""
    stripped = strip_wrappers(tensors)
    return tensors if list(stripped) == list(tensors) else stripped


def _first_optimizer(checkpoint: Mapping[str, Any]) -> Any:
    states = checkpoint.get("optimizer_states") or [None]
    return states[0] if isinstance(states, list) and len(states) == 1 else states


def _optimizer(checkpoint: Mapping[str, Any], weights: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Return the optimiser state of a file, or why it is left out."""
    optimizer = _first_optimizer(checkpoint)
    if optimizer is None:
        return None, ""
    if "jitflow" in checkpoint:
        # The class may have parameter groups of its own, and will make the same when training resumes.
        wrong = problem_of_optimizer(optimizer)
        return (None, wrong) if wrong else (optimizer, "")
    return read_optimizer(optimizer, weights)


def holds_counters(state: ModelState) -> bool:
    """Whether a model's file records the epochs and steps done; formats other than Lightning's do, by epochs.

    Args:
        state: The model.
    """
    return state.lightning is None or "fit_loop" in (state.lightning.get("loops") or {})


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
