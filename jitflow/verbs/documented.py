"""Trainings by the words of an application's documents, translated into dotted settings at the door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jitflow.applications import get_application, load_object, summaries
from jitflow.errors import CheckpointError, ConfigError, unknown_name
from jitflow.run.describe import Run
from jitflow.run.fit import fit
from jitflow.run.recipe import find_class, flatten, override, read_recipe
from jitflow.run.settings import complete
from jitflow.run.start import AUTO, recipe_to_resume
from jitflow.training.application import Documented
from jitflow.verbs.train import train
from jitflow.verbs.train_options import train_parser
from jitflow.verbs.words import spell_out

# Options of every documented training, with those of `jitflow train` that they are.
_OF_THE_RUN = {
    "output_dir": ("run_dir", "Folder of the results."),
    "resume": ("resume", "Go on with a checkpoint, the newest of a folder, or the newest of --output_dir (auto)."),
    "restart": ("restart", "Throw away what a training left in the folder, and begin anew."),
    "dry_run": ("dry_run", "Check everything, say what would run, stop."),
}


def documented_train(application: str, args: list[str]) -> None:
    """Run ``jitflow <application> train``: ``jitflow train`` in the words of the application's documents.

    Args:
        application: Its name.
        args: Words after ``train``; dotted settings (``--model.P_mean -1``) are taken as well.

    Raises:
        JitflowError: As :func:`jitflow.verbs.train.train`; names the documented word.
    """
    documented = _documented(application)
    if {"-h", "--help"} & set(args):
        Console().print(*_help(application, documented), sep="\n")
        return
    given, dotted = _split(application, documented, args)
    resume = given.get("resume")
    folder = given.get("output_dir") or (documented.default_dir if resume in (None, AUTO) else None)
    words = [f"--run_dir={folder}"] if folder is not None else []
    if resume is None:
        words.append(f"--config={documented.recipe}")
    else:
        found = documented.default_dir if folder is None else folder
        _check_application(application, recipe_to_resume(found if resume == AUTO else resume), resume)
    words += [f"--{name}={given[name]}" for name in ("resume", "init_from") if name in given]
    words += [f"--{name}" for name in ("restart", "dry_run") if given.get(name) == "true"]
    values = {word: _value(value) for word, value in given.items()}
    for word, value in values.items():
        documented.check(word, value)
    seen = {**values, **{word.partition("=")[0][2:]: _value(word.partition("=")[2]) for word in dotted}}
    derived = load_object(documented.derive)(seen, resume is not None) if documented.derive else {}
    words += [f"--{name}={_text(value)}" for name, value in derived.items()]
    words += [f"--{name}={text}" for word, text in given.items() for name in documented.targets(word)]
    try:
        train([*words, *dotted])
    except ConfigError as error:
        raise ConfigError(_in_documented_words(str(error), documented, given)) from None


def _documented(application: str) -> Documented:
    documented = get_application(application).documented
    if documented is None:
        raise ConfigError(f"{application} has no words of its own for trainings; use jitflow train")
    return documented


def _split(application: str, documented: Documented, args: list[str]) -> tuple[dict[str, str], list[str]]:
    """Documented words by name, and the dotted settings among the words of a command line."""
    options = [*documented.options, *_OF_THE_RUN]
    given: dict[str, str] = {}
    dotted: list[str] = []
    for word in spell_out(args, dict.fromkeys(options, "bool | str")):
        flag, equals, value = word.partition("=")
        name = flag[2:]
        if not flag.startswith("--"):
            raise ConfigError(f"{word!r} has no option before it; give settings as --name value")
        if "." in name:
            dotted.append(word)
        elif name not in options and name in documented.words:
            dotted_names = " and ".join(f"--{target}" for target in documented.targets(name))
            raise ConfigError(f"there is no option {flag}; it is {dotted_names}")
        elif name not in options:
            hint = f"Other settings are dotted, such as --model.x; jitflow {application} train --help lists all."
            raise unknown_name("option", flag, [f"--{option}" for option in options], hint=hint)
        elif not equals:
            raise ConfigError(f"{flag} needs a value")
        elif value != "null":
            given[name] = value
    return given, dotted


def _value(text: str) -> Any:
    """What a word means as a number or truth, for what follows from it; the parser reads it again."""
    try:
        value = yaml.safe_load(text)
        # To YAML 1e-4 is text.
        return float(value) if isinstance(value, str) else value
    except (ValueError, yaml.YAMLError):
        return text


def _text(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).strip().removesuffix("...").strip()


def _in_documented_words(text: str, documented: Documented, given: Mapping[str, str]) -> str:
    """An error about a setting, with the word that was typed for it."""
    for word in given:
        for name in documented.targets(word):
            text = text.replace(f"--{name} ", f"--{word} ")
    return text


def _help(application: str, documented: Documented) -> list[Any]:
    """What the command is, and a table of every documented word, what it sets and its default."""
    defaults = flatten(complete(read_recipe(documented.recipe)))
    described = _descriptions(documented)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for word, text in documented.options.items():
        names = documented.targets(word)
        default = defaults.get(names[0]) if names else None
        notes = ["sets " + " and ".join(names)] if names else []
        notes += [f"default {default}"] if default is not None else []
        said = text or described.get(names[0], "")
        table.add_row(f"--{word}", f"{said} ({', '.join(notes)})" if notes else said)
    for word, (_, text) in _OF_THE_RUN.items():
        table.add_row(f"--{word}", f"{text} (default {documented.default_dir})" if word == "output_dir" else text)
    intro = (
        f"usage: jitflow {application} train [--option value ...] [--model.x value ...]\n\n"
        f"{summaries().get(application, (application,))[0]}\n\n"
        f"Train by the recipe {documented.recipe} in the words of the documents (images and all others: `jitflow "
        "train`). Run again, it goes on where it stopped; a finished training is left alone. Every other setting is a "
        "dotted option, such as --model.P_mean -1 or --trainer.accelerator cpu: `jitflow train --help`.\n"
    )
    return [Text(intro), table]


def _descriptions(documented: Documented) -> dict[str, str]:
    """Help of the settings that words set, from the docstrings of the recipe's classes."""
    recipe = read_recipe(documented.recipe)
    parser = train_parser()
    for name in ("model", "data"):
        parser.add_class_arguments(find_class(recipe[name]), f"of.{name}", fail_untyped=False)
    return {action.dest.removeprefix("of."): (action.help or "").partition(" (type")[0] for action in parser._actions}


def _check_application(application: str, recipe: Mapping[str, Any], resume: str | Path) -> None:
    theirs = find_class(recipe["model"]).application
    if theirs != application:
        raise CheckpointError(f"{resume} is no model of {application} but of {theirs or recipe['model']['class_path']}")


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
    documented = _documented(application)
    given = {**documented.settings(words), **(settings or {})}
    seen = {**{word: value for word, value in words.items() if value is not None}, **given}
    derived = load_object(documented.derive)(seen, resume is not None) if documented.derive else {}
    if resume is None:
        return complete(override(read_recipe(documented.recipe), {**derived, **given}))
    base = recipe_to_resume(resume)
    _check_application(application, base, resume)
    return complete(override(base, {**derived, **given}))
