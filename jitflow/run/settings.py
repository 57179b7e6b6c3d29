"""Complete a recipe's settings with defaults, and compare the settings of two runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

import lightning.pytorch as pl

from jitflow.callbacks import FiniteGuard, JiTModelCheckpoint, LearningRateSchedulerCallback
from jitflow.callbacks.training_pictures import TrainingPictures
from jitflow.errors import ConfigError, unknown_name
from jitflow.run.arguments import arguments_of
from jitflow.run.recipe import copy_nested, find_class

# Sections of a recipe whose values are arguments of one callable, with the arguments that the run itself sets.
SECTIONS: dict[str, tuple[Callable[..., Any], set[str]]] = {
    "trainer": (pl.Trainer, set()),
    "schedule": (LearningRateSchedulerCallback, {"epochs"}),
    "checkpoint": (JiTModelCheckpoint, set()),
    "guard": (FiniteGuard, set()),
    "pictures": (TrainingPictures, {"dirpath"}),
}
_DEFAULTS: dict[str, Any] = {
    "seed_everything": 0,
    "init_from": None,
    "init_ema": 1,
    "ema_snapshots_every_n_steps": None,
    "ema_on_cpu": False,
    "optimizer_on_cpu": False,
}
# Folders in the run's folder, and the settings of a Weights & Biases run.
LOGGING = {"tensorboard": "tensorboard", "csv": "csv", "wandb": None}
CHECKPOINTS = "checkpoints"
# Settings that may change when a run is resumed: its length, paths, logging and saving.
_MAY_CHANGE = (
    "checkpoint.",
    "data.cache_dir",
    "data.loader_timeout",
    "data.num_workers",
    "data.pin_memory",
    "ema_on_cpu",
    "guard.",
    "logging.",
    "model.compile",
    "optimizer_on_cpu",
    "pictures.",
    "trainer.enable_",
    "trainer.log_every_n_steps",
    "trainer.logger",
    "trainer.max_",
    "trainer.min_",
    "trainer.num_sanity_val_steps",
    "trainer.profiler",
)
# Model settings that are not part of a checkpoint's state, so that a resumed run may change them.
_NOT_IN_STATE = (
    "model.apg_",
    "model.guidance_rule",
    "model.guide_by",
    "model.internal_guidance",
    "model.cfg_",
    "model.churn",
    "model.sde",
    "model.compile",
    "model.gradient_checkpointing",
    "model.num_sampling_steps",
    "model.sampling_method",
    "model.time_shift",
)


def complete(recipe: Mapping[str, Any], *, allow_import: Collection[str] = ()) -> dict[str, Any]:
    """Fill in the defaults of a recipe, so that it fully describes a training.

    Args:
        recipe: Sections by name; ``model`` and ``data`` describe classes.
        allow_import: As in :func:`jitflow.run.recipe.find_class`.

    Returns:
        The complete recipe, plain values.

    Raises:
        ConfigError: If a section or an argument is unknown, or ``model`` or ``data`` is missing.
    """
    known = ("model", "data", *SECTIONS, "logging", *_DEFAULTS)
    for name in recipe:
        if name not in known:
            raise unknown_name("section of a recipe", name, known)
    done = {**_DEFAULTS, **{name: recipe[name] for name in _DEFAULTS if name in recipe}}
    for name in ("model", "data"):
        spec = recipe.get(name)
        if not isinstance(spec, Mapping) or "class_path" not in spec:
            raise ConfigError(f"a recipe needs the section {name} with a class_path and init_args; got {spec!r}")
        cls = find_class(spec, allow_import)
        given = _section(spec.get("init_args"), f"{name}.init_args")
        path = f"{cls.__module__}.{cls.__qualname__}"
        done[name] = {"class_path": path, "init_args": {**_arguments(cls, given, name), **given}}
    for name, (function, left_out) in SECTIONS.items():
        given = _section(recipe.get(name), name)
        done[name] = {**_arguments(function, given, name, left_out), **given}
    if "dirpath" not in _section(recipe.get("checkpoint"), "checkpoint"):
        done["checkpoint"]["dirpath"] = CHECKPOINTS
    if os.path.normpath(done["checkpoint"]["dirpath"]) not in (CHECKPOINTS, os.curdir):
        # The places where a run's checkpoints are searched.
        raise ConfigError(
            f"checkpoint.dirpath must be {CHECKPOINTS} or {os.curdir}, relative to the run's folder; got "
            f"{done['checkpoint']['dirpath']}; for another disk, put the run's folder there"
        )
    given = _section(recipe.get("logging"), "logging")
    for name in given:
        if name not in LOGGING:
            raise unknown_name("setting of logging", name, LOGGING)
    done["logging"] = {**LOGGING, **given}
    return {name: copy_nested(done[name]) for name in ("seed_everything", *(n for n in known if n in done))}


def _section(given: Any, name: str) -> Mapping[str, Any]:
    """Return a section's settings by name, empty if it is missing; raise ConfigError for any other value."""
    if given is not None and not (isinstance(given, Mapping) and all(isinstance(key, str) for key in given)):
        raise ConfigError(f"the section {name} of a recipe must hold settings by name; got {given!r:.40}")
    return given or {}


def _arguments(
    function: Callable[..., Any], given: Mapping[str, Any], section: str, left_out: set[str] | None = None
) -> dict[str, Any]:
    """Return the defaults of a callable's arguments; raise ConfigError if a given argument does not exist."""
    takes = arguments_of(function)
    names = [name for name in takes.names if name not in (left_out or ())]
    for name in given:
        if name not in names and not takes.takes_all:
            raise unknown_name(f"setting {section}.", name, names)
    return {name: value for name, value in takes.defaults.items() if name in names and name not in given}


def is_other(then: Any, now: Any) -> bool:
    """Whether a recorded setting and a present one differ; the command line gives some numbers as text (devices)."""
    return bool(then != now) and str(then) != str(now)


def changed_settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compare a run's recorded settings with those to resume it with, ignoring settings that may change.

    Args:
        then: Recorded settings by dotted name; settings that are not recorded are not compared.
        now: Complete settings by dotted name. A model setting that is null stands for the recorded one.

    Returns:
        Recorded and present value by dotted name, sorted.
    """
    return {
        name: (then[name], now.get(name))
        for name in sorted(then)
        if is_other(then[name], now.get(name))
        and not name.startswith(_MAY_CHANGE)
        and not (name.startswith("model.") and now.get(name) is None)
    }


def fixed_settings(changed: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """Select the changed settings that a checkpoint's network, optimiser or losses depend on."""
    return {
        name: pair for name, pair in changed.items() if name.startswith("model.") and not name.startswith(_NOT_IN_STATE)
    }


def describe_changes(changed: Mapping[str, tuple[Any, Any]], most: int = 5) -> str:
    """List the recipe settings that differ, such as ``model.learning_rate 0.001 (now 0.1)``."""
    parts = [f"{name} {_short(then)} (now {_short(now)})" for name, (then, now) in list(changed.items())[:most]]
    more = f" and {len(changed) - most} more" if len(changed) > most else ""
    return ", ".join(parts) + more


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
