"""Trainings by the words of an application's documents, translated into a recipe at the door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from jitflow.applications import get_application
from jitflow.errors import CheckpointError
from jitflow.run.describe import Run
from jitflow.run.fit import fit
from jitflow.run.recipe import find_class, override, read_recipe
from jitflow.run.settings import complete
from jitflow.run.start import AUTO, recipe_to_resume


def train_documented(
    application: str,
    words: Mapping[str, Any],
    run_dir: str | Path,
    *,
    resume: str | Path | None = None,
    restart: bool = False,
    settings: Mapping[str, Any] | None = None,
    callbacks: Sequence[pl.Callback] = (),
) -> Run:
    """Train an application by documented words; the same words again go on, or find a finished run.

    Args:
        application: Its name.
        words: Values by documented word; those that are None have the documented default or, in a training that is
            resumed, the recorded value.
        run_dir: Folder of the run.
        resume: A checkpoint or a folder to go on with; ``"auto"`` is the run's folder.
        restart: Throw away what a training left in the folder.
        settings: Further settings by dotted name.
        callbacks: Further callbacks.

    Returns:
        The run.

    Raises:
        JitflowError: As :func:`jitflow.run.fit.fit`.
    """
    recipe = documented_recipe(application, words, resume=run_dir if resume == AUTO else resume, settings=settings)
    start = AUTO if resume is None else run_dir if resume == AUTO else resume
    return fit(recipe, run_dir, start, callbacks, restart=restart)


def documented_recipe(
    application: str,
    words: Mapping[str, Any],
    *,
    resume: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Make the recipe that documented words mean.

    Args:
        application: The application's name.
        words: Values by documented word, None for those that were not given.
        resume: What is gone on with, whose recorded recipe is the base; None for the documented defaults.
        settings: Further settings by dotted name.

    Returns:
        The complete recipe.

    Raises:
        ConfigError: If a value cannot work; names its word.
        CheckpointError: If what is gone on with belongs to another application, or to nobody knows which recipe.
        MissingFileError: If it does not exist.
    """
    documented = get_application(application).documented
    assert documented is not None, f"{application} has no documented words"
    given = {**documented.settings(words), **(settings or {})}
    if resume is None:
        return complete(override(read_recipe(documented.recipe), given))
    base = recipe_to_resume(resume)
    theirs = find_class(base["model"]).application
    if theirs != application:
        raise CheckpointError(f"{resume} is no model of {application} but of {theirs or base['model']['class_path']}")
    return complete(override(base, given))
