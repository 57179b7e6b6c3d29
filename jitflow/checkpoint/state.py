"""A trained model independent of file formats, and the errors of damaged checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from jitflow.applications import application_name, get_application, list_applications
from jitflow.checkpoint.optimizer_state import keep_parameters
from jitflow.errors import CheckpointError, ConfigError, JitflowError
from jitflow.training.application import Application
from jitflow.training.ema_history import EMAHistory
from jitflow.training.methods.registry import sampling_terms
from jitflow.training.terms import TERMS_PREFIX, TERMS_RECORD
from jitflow.training.trained_on import read_spaces

PEAK_LR = "peak_lr"
"""Entry of an optimiser's parameter group: the learning rate between warm-up and decay."""

# Entries of a run that a model file does not have, or stores separately.
_RUN_ENTRIES = ("version", "application", "module", "run_seed", "settings", TERMS_RECORD)


@dataclass
class ModelState:
    """A trained model, independent of the checkpoint's file format.

    Attributes:
        settings: Arguments of the module.
        weights: State dict of the module, names with the prefix ``net.``.
        ema1: First average by the same names, if there is one.
        ema2: Second average.
        optimizer: State dict of AdamW over this library's parameter groups, if the file holds one that fits them.
        optimizer_left_out: Why an optimiser in the file cannot be used, in a few words; empty if there is none.
        epoch: Last finished epoch, counted from 0; -1 if none.
        step: Optimiser steps done.
        args: The release's arguments as stored; some have no counterpart among the settings.
        lightning: The whole content of the file, if Lightning wrote it.
        is_adapted: Whether the file's own names or optimiser were brought into this library's order, so that Lightning
            could not resume from the file itself.
        application: Name of its application, installed or not; derived from ``module`` if not given.
        module: Dotted name of the trained class, or empty if unknown. It is never imported; it only shows whether a
            user's own class was trained.
        extra: Additional state of the application (:meth:`FlowModule.extra_state`), by name.
    """

    settings: dict[str, Any]
    weights: dict[str, Tensor]
    ema1: dict[str, Tensor] | None = None
    ema2: dict[str, Tensor] | None = None
    optimizer: dict[str, Any] | None = None
    optimizer_left_out: str = ""
    epoch: int = -1
    step: int = 0
    args: dict[str, Any] = field(default_factory=dict)
    lightning: dict[str, Any] | None = None
    is_adapted: bool = False
    application: str = ""
    module: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.application, str) or not isinstance(self.module, str):
            raise TypeError("the names of the application and of the class must be text")
        self.application = application_name(self.application or self.module)

    @property
    def ema_history(self) -> EMAHistory:
        """Updates of the averages so far."""
        return EMAHistory.from_state(self.extra, steps=self.step, settings=self.settings)

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Names of the feature extractors that a training of these weights optimised."""
        return read_spaces(self.extra)

    def chosen(self, ema: int) -> dict[str, Tensor]:
        """Return an average (1 or 2) or the weights (0); raise CheckpointError if the file has no such average."""
        if ema not in (0, 1, 2):
            raise ConfigError(f"ema must be 0, 1 or 2; got {ema}")
        found = (self.weights, self.ema1, self.ema2)[ema]
        if found is None:
            raise CheckpointError(f"the checkpoint has no EMA {ema}; use ema=0 for the weights themselves")
        return {**self.weights, **found}

    def without_terms(self, *, but_for_sampling: bool = True) -> ModelState:
        """Return the model without its loss terms and their parameters.

        Args:
            but_for_sampling: Keep the terms that sampling needs.
        """
        given = self.settings.get("loss_terms")
        if not given and not any(name.startswith(TERMS_PREFIX) for name in self.weights):
            return self
        terms = sampling_terms(given) if but_for_sampling else None
        kept = tuple(f"{TERMS_PREFIX}{name}." for name in terms or ())

        def without(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {n: v for n, v in tensors.items() if not n.startswith(TERMS_PREFIX) or n.startswith(kept)}

        optimizer = self.optimizer
        return replace(
            self,
            settings={**self.settings, "loss_terms": terms},
            weights=without(self.weights),
            ema1=None if self.ema1 is None else without(self.ema1),
            ema2=None if self.ema2 is None else without(self.ema2),
            optimizer=None if optimizer is None else keep_parameters(optimizer, without(self.weights)),
        )

    def lasting_extra(self) -> dict[str, Any]:
        """Return the additional state without the entries of a run, which every format of checkpoints keeps."""
        return {name: value for name, value in self.extra.items() if name not in _RUN_ENTRIES}


def application_of(state: ModelState, path: str | Path, *, otherwise: str) -> Application:
    """Import the application of a model.

    Args:
        state: The model.
        path: Its file, for the message.
        otherwise: Alternative to installing the application, for the message, such as ``"pass module_class"``.

    Raises:
        CheckpointError: If the application is not installed.
        ConfigError: If its package is broken.
    """
    if state.application not in list_applications():
        raise CheckpointError(
            f"{path}: the model is of the application {state.application!r}, which is not installed; install the "
            f"package that defines it, or {otherwise}"
        )
    return get_application(state.application)


def check_state(state: ModelState, path: str | Path) -> None:
    """Raise CheckpointError if a part of a model has the wrong type.

    Args:
        state: The model as it was read.
        path: Its file, for the message.
    """
    for what, tensors in (("weights", state.weights), ("first average", state.ema1), ("second average", state.ema2)):
        if tensors is not None and not _is_state_dict(tensors):
            raise CheckpointError(f"{path} is damaged: its {what} are no tensors by name")
    if not all(isinstance(name, str) for name in state.settings):
        raise CheckpointError(f"{path} is damaged: its settings are no values by name")


@contextmanager
def errors_of_damage(path: str | Path) -> Iterator[None]:
    """Convert errors that malformed values of a checkpoint cause into one CheckpointError.

    Args:
        path: The file, for the message.
    """
    try:
        yield
    except JitflowError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).split("\n")[0][:200]
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}, {reason}") from error


def _is_state_dict(tensors: object) -> bool:
    return isinstance(tensors, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
    )
