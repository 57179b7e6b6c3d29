"""The verb ``train``: train a recipe, with dotted options, by :func:`jitflow.run.fit.fit`.

``--config`` takes a recipe's name as well as a file, and every setting can be overridden by a dotted option
(``--data.batch_size 32``).
"""

from __future__ import annotations

import argparse
import atexit
import logging
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from yaml import YAMLError

from jitflow.errors import ConfigError
from jitflow.io.files import write_text
from jitflow.io.yaml_file import format_yaml, parse_yaml, read_yaml
from jitflow.run.recipe import check_classes, find_recipe, importable_packages, read_recipe
from jitflow.verbs.words import spell_out

log = logging.getLogger(__name__)
# Options that are not training settings, with their kinds.
_RUN_OPTIONS = {
    "config": "str",
    "run_dir": "str",
    "resume": "str",
    "restart": "bool",
    "dry_run": "bool",
    "allow_import": "list[str]",
}
_CLASS_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_SWITCHES = {"ema_on_cpu": "bool", "optimizer_on_cpu": "bool"}


def train(args: list[str]) -> None:
    """Train a model by a recipe, ``jitflow train``.

    Args:
        args: The arguments after the verb.

    Raises:
        JitflowError: If a setting, the data or a path is invalid; before training starts.
    """
    args, recipe_name = _with_recipe_paths(spell_out(args, {**_RUN_OPTIONS, **_SWITCHES}))
    # These imports load torch; a missing recipe was reported above, without it.
    from jitflow.run.fit import fit, prepare
    from jitflow.run.start import AUTO, nothing_left_of_a_refused_run, resumed_folder
    from jitflow.verbs.commandline import check_values
    from jitflow.verbs.option_errors import explain_option_error
    from jitflow.verbs.train_options import describe_dry_run, import_policy, set_texts_aside, train_parser

    check_values(args)
    allowed = _allowed_packages(args)
    args = _with_recorded_recipe(args, allowed)
    given = _recipe_of(args)
    # Before the parser, which imports a class to see what it is.
    check_classes(given, allowed)
    args, texts = set_texts_aside(args, given, allowed)
    parser = train_parser()
    try:
        with import_policy(allowed):
            parsed = parser.parse_args(args)
    except argparse.ArgumentError as error:
        options = [option for action in parser._actions for option in action.option_strings]
        raise explain_option_error(str(error), args, given, options, "jitflow train", allow_import=allowed) from None
    settings: dict[str, Any] = parse_yaml(parser.dump(parsed, format="yaml", skip_unset=False))
    recipe = {name: value for name, value in settings.items() if name not in _RUN_OPTIONS}
    for (section, name), text in texts.items():
        recipe[section]["init_args"][name] = text
    resume = parsed.resume
    folder = resumed_folder(resume, parsed.run_dir, Path("runs") / (recipe_name or "train").replace("/", "_"))
    # "auto" on the command line requires an existing run.
    start: str | Path = AUTO if resume is None else folder if resume == AUTO else resume
    if parsed.dry_run:
        with nothing_left_of_a_refused_run(folder):
            training = prepare(recipe, folder, start, restart=parsed.restart, allow_import=allowed)
            if training is not None:
                describe_dry_run(training)
        return
    run = fit(recipe, folder, start, restart=parsed.restart, allow_import=allowed)
    best = run.best or run.checkpoint
    log.info("done: %s; draw samples with `jitflow sample %s`", best, best)


def _recipe_of(args: list[str]) -> dict[str, Any]:
    """Return the recipe that ``--config`` names, with the classes that ``--model`` and ``--data`` replace."""
    recipe: dict[str, Any] = {}
    for arg in args:
        flag, _, value = arg.partition("=")
        if flag == "--config":
            recipe.update(read_recipe(value))
        elif flag in ("--model", "--data") and value:
            recipe[flag.removeprefix("--")] = {"class_path": value}
    return recipe


def _with_recipe_paths(args: list[str]) -> tuple[list[str], str | None]:
    """Replace recipe names by their files; also return the first name."""
    resolved, name = [], None
    rest = iter(args)
    for arg in rest:
        flag, equals, value = arg.partition("=")
        if flag in ("--config", "-c"):
            value = value if equals else next(rest, "")
            if not value:
                raise ConfigError("--config needs the name of a recipe or a file, such as images/jit_b16_256")
            name = name or (Path(value).stem if Path(value).is_file() else value)
            resolved.append(f"--config={_current_recipe_file(find_recipe(value))}")
        else:
            if Path(value).suffix in (".yaml", ".yml") and Path(value).is_file():
                # A section in a file of its own; the parser would not say what is wrong with it.
                read_yaml(value, what=flag)
            resolved.append(arg)
    return resolved, name


def _current_recipe_file(path: Path) -> Path:
    """Return the recipe's file, or a copy of the recipe with outdated class names replaced."""
    recipe = read_recipe(path)
    return path if recipe == read_yaml(path, what="recipe") else _write_temporary(recipe)


def _allowed_packages(args: list[str]) -> list[str]:
    """Return the packages that a command line allows a recipe to import: those it lists, and those of its own classes.

    Whoever types ``--model my_package.Model`` has named the package.
    """
    listed = [word for value in _values_of("--allow_import", args) for word in value.strip("[]").split(",")]
    for package in filter(None, listed):
        if not package.isidentifier():
            raise ConfigError(f"--allow_import takes names of packages, such as my_package; got {package!r}")
    typed = [_values_of(option, args) for option in ("--model", "--data", "--model.class_path", "--data.class_path")]
    # Classes of a model's loss terms, by their names.
    terms = [name for value in _values_of("--model.loss_terms", args) for name in _names_in(value)]
    named = [*(value for values in typed for value in values), *terms]
    packages = [name.partition(".")[0] for name in named if _CLASS_PATH.fullmatch(name)]
    return sorted({*filter(None, listed), *packages} - importable_packages())


def _names_in(value: str) -> list[str]:
    """Return the names in a mapping that an option gives as YAML; none if it is something else."""
    try:
        content = parse_yaml(value)
    except YAMLError:
        return []
    return [str(name) for name in content] if isinstance(content, dict) else []


def _with_recorded_recipe(args: list[str], allowed: list[str]) -> list[str]:
    """Add ``--config`` with a run's recorded recipe if ``--resume`` is given without a recipe."""
    from jitflow.run.start import AUTO, recipe_to_resume

    if any(arg.startswith("--config=") for arg in args) or {"-h", "--help"} & set(args):
        return args
    resume = _value_of("--resume", args)
    place = _value_of("--run_dir", args) if resume == AUTO else resume
    if not place:
        return args
    recipe = recipe_to_resume(place)
    try:
        check_classes(recipe, allowed)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
    return [f"--config={_write_temporary(recipe)}", *args]


def _value_of(option: str, args: list[str]) -> str:
    """Return the value of an option; empty if it is not given."""
    return next(iter(_values_of(option, args)), "")


def _values_of(option: str, args: list[str]) -> list[str]:
    return [arg.partition("=")[2] for arg in args if arg.startswith(f"{option}=")]


def _write_temporary(recipe: dict[str, Any]) -> Path:
    """Write a recipe to a temporary file for the parser; it is deleted when the process ends."""
    folder = tempfile.mkdtemp(prefix="jitflow-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = Path(folder) / "recipe.yaml"
    write_text(file, format_yaml(recipe))
    return file
