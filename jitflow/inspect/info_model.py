"""Describe a trained model's file without building the network."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from jitflow.applications import RELEASES, get_application, list_applications, load_object
from jitflow.checkpoint.formats import read_state
from jitflow.checkpoint.lightning import holds_counters
from jitflow.checkpoint.load import unknown_settings
from jitflow.checkpoint.state import ModelState
from jitflow.io.units import format_count
from jitflow.run.next_command import sample_command
from jitflow.run.start import epochs_done
from jitflow.training.trained_on import MADE_BY, trained_on_note

_SAMPLING = {
    "sampling_method": "solver",
    "num_sampling_steps": "steps",
    "cfg_scale": "guidance",
    "cfg_interval": "interval",
    "time_shift": "time shift",
    "churn": "churn",
}


def describe_model_file(path: Path) -> tuple[str, dict[str, str], list[str]]:
    """Describe a trained model in a checkpoint of any format.

    Args:
        path: The file.

    Returns:
        The kind of file, facts by name, and commands that use it.

    Raises:
        CheckpointError: If it is not a trained model, damaged, or unsafe to read.
    """
    state = read_state(path)
    installed = "" if state.application in list_applications() else " (not installed)"
    facts = {"application": f"{state.application}{installed}", "network": _network(state), **_data_facts(state)}
    facts["parameters"] = format_count(sum(value.numel() for value in state.weights.values()))
    facts["training"] = _training(state)
    facts["made by"] = str(state.extra.get(MADE_BY) or "")
    averages = [(n, value) for n, value in ((1, state.ema1), (2, state.ema2)) if value is not None]
    facts["averages"] = ", ".join(_average(state, n) for n, _ in averages) or (
        "none; samples come from the weights themselves"
    )
    start = state.ema_history.start_warning(1) if state.ema1 is not None else None
    facts["note"] = "; ".join(filter(None, [start, trained_on_note(state.trained_on)]))
    facts["optimiser"] = _optimizer(state)
    foreign = _unknown_settings(state)
    if foreign:
        facts["not usable"] = f"the application does not take the settings {', '.join(foreign)}"
    facts["sampling"] = ", ".join(
        f"{word} {_plain(state.settings[name])}" for name, word in _SAMPLING.items() if name in state.settings
    )
    return _kind(path, state), {name: fact for name, fact in facts.items() if fact}, _commands(path, usable=not foreign)


def _average(state: ModelState, version: int) -> str:
    decay = state.settings.get(f"ema_decay{version}")
    warmup = " after a warm-up" if state.settings.get("ema_warmup") else ""
    return f"EMA {version}" + (f" (decay {decay}{warmup})" if decay else "")


def _optimizer(state: ModelState) -> str:
    if state.optimizer is not None and holds_counters(state):
        return "yes, training can resume from this file"
    if state.optimizer is not None:
        return "yes, but without the epochs and steps done; use it with --init_from"
    why = f"left out, {state.optimizer_left_out}" if state.optimizer_left_out else "none"
    return f"{why}; use it with --init_from"


def _unknown_settings(state: ModelState) -> list[str]:
    """Return the settings in the file that its application's module does not take."""
    if state.application not in list_applications():
        return []
    return unknown_settings(state, get_application(state.application).module)


def _kind(path: Path, state: ModelState) -> str:
    if path.suffix == ".safetensors":
        return "trained model (safetensors)"
    if state.lightning is not None:
        return "training checkpoint (Lightning)"
    release = next((name for name, application in RELEASES.items() if application == state.application), "JiT")
    return f"checkpoint of the {release} release's format"


def _network(state: ModelState) -> str:
    settings = state.settings
    changed = settings.get("net_settings") or {}
    inside = ", ".join(f"{name} {_plain(value)}" for name, value in changed.items())
    predicts = f", predicts {settings['prediction']}" if "prediction" in settings else ""
    return f"{settings.get('model_name', 'JiT')}{f' ({inside})' if inside else ''}{predicts}"


def _data_facts(state: ModelState) -> dict[str, str]:
    """Return facts about the model's data from its application, if installed."""
    # Without the application, the other facts are still shown.
    describe = get_application(state.application).describe if state.application in list_applications() else ""
    return dict(load_object(f"{describe}:describe_model")(state.settings, state.extra)) if describe else {}


def _training(state: ModelState) -> str:
    if state.epoch < 0 and not state.step:
        return "length unknown"
    steps = f"{state.step} steps, " if state.step else ""
    epochs = epochs_done(state.lightning) if state.lightning is not None else state.epoch + 1
    seed = state.extra.get("run_seed")
    return f"{steps}{epochs} epochs" + (f", seed {seed}" if seed is not None else "")


def _commands(path: Path, *, usable: bool) -> list[str]:
    quoted = shlex.quote(str(path))
    commands = [sample_command(path), f"jitflow evaluate {quoted}"] if usable else []
    if path.suffix != ".safetensors":
        commands.append(f"jitflow convert {quoted} {shlex.quote(path.stem + '.safetensors')}")
    return commands


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(_plain(v) for v in value) if len(value) == 2 else ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
