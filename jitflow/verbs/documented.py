"""Translate an application's documented training options into dotted settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text
from yaml import YAMLError

from jitflow.applications import get_application, load_object, summaries
from jitflow.errors import CheckpointError, ConfigError, unknown_name
from jitflow.io.yaml_file import format_yaml, parse_yaml
from jitflow.run.describe import Run
from jitflow.run.fit import fit
from jitflow.run.recipe import find_class, flatten, override, read_recipe
from jitflow.run.settings import complete
from jitflow.run.start import AUTO, recipe_to_resume
from jitflow.training.application import Documented
from jitflow.verbs.train import train
from jitflow.verbs.train_options import train_parser
from jitflow.verbs.words import spell_out

# Options of every documented training, with their help.
_OF_THE_RUN = {
    "output_dir": "Folder of the results.",
    "resume": "Resume from a checkpoint, the newest of a folder, or the newest of --output_dir (auto).",
    "restart": "Delete the results of an earlier training in the folder, and start from scratch.",
    "dry_run": "Check everything, print what would run, and stop.",
}


def documented_train(application: str, args: list[str]) -> None:
    """Run ``jitflow <application> train``: ``jitflow train`` with the options that its documents name.

    Args:
        application: Its name.
        args: Arguments after ``train``; dotted settings (``--model.P_mean -1``) are accepted too.

    Raises:
        JitflowError: As :func:`jitflow.verbs.train.train`; names the documented option.
    """
    documented = _documented(application)
    if {"-h", "--help"} & set(args):
        Console(markup=False).print(*_help(application, documented), sep="\n")
        return
    given, dotted = _split(application, documented, args)
    resume = given.get("resume")
    folder = given.get("output_dir") or (documented.default_dir if resume in (None, AUTO) else None)
    translated = [f"--run_dir={folder}"] if folder is not None else []
    if resume is None:
        translated.append(f"--config={documented.recipe}")
    else:
        found = documented.default_dir if folder is None else folder
        _check_application(application, recipe_to_resume(found if resume == AUTO else resume), resume)
    translated += [f"--{name}={given[name]}" for name in ("resume", "restart", "dry_run") if name in given]
    values = {option: _value(text) for option, text in given.items()}
    for option, value in values.items():
        documented.check(option, value)
    known = {**values, **{arg.partition("=")[0][2:]: _value(arg.partition("=")[2]) for arg in dotted}}
    derived = _derived(documented, known, resumed=resume is not None)
    translated += [f"--{name}={_text(value)}" for name, value in derived.items()]
    translated += [f"--{name}={text}" for option, text in given.items() for name in documented.targets(option)]
    try:
        train([*translated, *dotted])
    except ConfigError as error:
        message = _name_documented_options(str(error), documented, given)
        raise ConfigError(message.replace("jitflow train --help", f"jitflow {application} train --help")) from None


def _documented(application: str) -> Documented:
    documented = get_application(application).documented
    if documented is None:
        raise ConfigError(f"{application} has no documented training options; use jitflow train")
    return documented


def _derived(documented: Documented, known: Mapping[str, Any], *, resumed: bool) -> dict[str, Any]:
    """Derive further settings from documented options and dotted settings; none for most applications."""
    settings: dict[str, Any] = load_object(documented.derive)(known, resumed) if documented.derive else {}
    return settings


def _split(application: str, documented: Documented, args: list[str]) -> tuple[dict[str, str], list[str]]:
    """Split a command line into documented options by name, and dotted settings."""
    options = [*documented.options, *_OF_THE_RUN]
    given: dict[str, str] = {}
    dotted: list[str] = []
    for arg in spell_out(args, dict.fromkeys(options, "bool | str")):
        flag, equals, value = arg.partition("=")
        name = flag[2:]
        if not flag.startswith("--"):
            raise ConfigError(f"{arg!r} has no option before it; give settings as --name value")
        if "." in name:
            dotted.append(arg)
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
    """Convert an option's text to a number or truth value, for the derived settings; the parser reads it again."""
    try:
        value = parse_yaml(text)
        # YAML reads 1e-4 as text.
        return float(value) if isinstance(value, str) else value
    except (ValueError, YAMLError):
        return text


def _text(value: Any) -> str:
    return format_yaml(value, default_flow_style=True).strip().removesuffix("...").strip()


def _name_documented_options(text: str, documented: Documented, given: Mapping[str, str]) -> str:
    """Replace setting names in an error message by the documented options that the user typed."""
    for option in given:
        for name in documented.targets(option):
            text = text.replace(f"--{name} ", f"--{option} ")
    return text


def _help(application: str, documented: Documented) -> list[Any]:
    """Return the help: a summary, and a table of documented options with their settings and defaults."""
    defaults = flatten(complete(read_recipe(documented.recipe)))
    described = _descriptions(documented)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for option, text in documented.options.items():
        names = documented.targets(option)
        default = defaults.get(names[0]) if names else None
        notes = ["sets " + " and ".join(names)] if names else []
        notes += [f"default {default}"] if default is not None else []
        description = text or described.get(names[0], "")
        table.add_row(f"--{option}", f"{description} ({', '.join(notes)})" if notes else description)
    for option, text in _OF_THE_RUN.items():
        table.add_row(f"--{option}", f"{text} (default {documented.default_dir})" if option == "output_dir" else text)
    intro = (
        f"usage: jitflow {application} train [--option value ...] [--model.x value ...]\n\n"
        f"{summaries().get(application, (application, {}))[0]}\n\n"
        f"Train with the recipe {documented.recipe} and the options that its documents name (for images: `jitflow "
        "train`). Run it again to resume; a finished training is left unchanged. Every other setting is a dotted "
        "option, such as --model.P_mean -1 or --trainer.accelerator cpu: `jitflow train --help`.\n"
    )
    return [Text(intro), table]


def _descriptions(documented: Documented) -> dict[str, str]:
    """Return the help of the settings that documented options set, from the docstrings of the recipe's classes."""
    recipe = read_recipe(documented.recipe)
    parser = train_parser()
    for name in ("model", "data"):
        parser.add_class_arguments(find_class(recipe[name]), f"of.{name}", fail_untyped=False)
    return {action.dest.removeprefix("of."): (action.help or "").partition(" (type")[0] for action in parser._actions}


def _check_application(application: str, recipe: Mapping[str, Any], resume: str | Path) -> None:
    owner = find_class(recipe["model"]).application or recipe["model"]["class_path"]
    if owner != application:
        raise CheckpointError(f"{resume} is no model of {application} but of {owner}")


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
    """Train an application with documented options; the same call resumes a run or finds it finished.

    Args:
        application: Its name.
        words: Values by documented option; None stands for the documented default or, in a resumed training, the
            recorded value.
        run_dir: Folder of the run.
        resume: A checkpoint or a folder to resume from; ``"auto"`` is the run's folder.
        restart: Delete the results of an earlier training in the folder.
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
    """Build the recipe that documented options stand for.

    Args:
        application: The application's name.
        words: Values by documented option, None for those that were not given.
        resume: Checkpoint or run to resume, whose recorded recipe is the base; None for the documented defaults.
        settings: Further settings by dotted name.

    Returns:
        The complete recipe.

    Raises:
        ConfigError: If a value is invalid; names its option.
        CheckpointError: If the run to resume belongs to another application, or its recipe is not recorded.
        MissingFileError: If the run to resume does not exist.
    """
    documented = _documented(application)
    given = {**documented.settings(words), **(settings or {})}
    known = {**{option: value for option, value in words.items() if value is not None}, **given}
    derived = _derived(documented, known, resumed=resume is not None)
    if resume is None:
        return complete(override(read_recipe(documented.recipe), {**derived, **given}))
    base = recipe_to_resume(resume)
    _check_application(application, base, resume)
    return complete(override(base, {**derived, **given}))
