"""The verb ``train``: a recipe and dotted options in, a training of :func:`jitflow.run.fit.fit` out.

``--config`` takes a recipe's name as well as a file, and every setting can be overridden by a dotted option
(``--data.batch_size 32``).
"""

from __future__ import annotations

import argparse
import atexit
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from jitflow.errors import ConfigError
from jitflow.io.files import write_text
from jitflow.run.recipe import check_classes, find_recipe, read_recipe
from jitflow.verbs.words import spell_out

log = logging.getLogger(__name__)
# Options that are no settings of the training, with what they take.
_OURS = {"config": "str", "run_dir": "str", "resume": "str", "restart": "bool", "dry_run": "bool"}
_SWITCHES = {"ema_on_cpu": "bool", "optimizer_on_cpu": "bool"}


def train(args: list[str]) -> None:
    """Run ``jitflow train``.

    Args:
        args: The words after the verb.

    Raises:
        JitflowError: If a setting, the data or a path cannot work; before training starts.
    """
    words, recipe_name = _with_recipe_paths(spell_out(args, {**_OURS, **_SWITCHES}))
    # What follows imports torch; a recipe that does not exist was named without.
    from jitflow.run.fit import fit, no_folder_without_a_run, prepare
    from jitflow.run.start import AUTO, resumed_folder
    from jitflow.verbs.option_errors import explain_option_error
    from jitflow.verbs.train_options import describe_dry_run, train_parser

    words = _with_recorded_recipe(words)
    parser = train_parser()
    try:
        asked = parser.parse_args(words)
    except argparse.ArgumentError as error:
        options = [option for action in parser._actions for option in action.option_strings]
        raise explain_option_error(str(error), words, _recipe_of(words), options, "jitflow train") from None
    settings: dict[str, Any] = yaml.safe_load(parser.dump(asked, format="yaml", skip_unset=False))
    recipe = {name: value for name, value in settings.items() if name not in _OURS}
    resume = asked.resume
    folder = resumed_folder(resume, asked.run_dir, Path("runs") / (recipe_name or "train").replace("/", "_"))
    # "auto" on the command line asks for a run that is there.
    start: str | Path = AUTO if resume is None else folder if resume == AUTO else resume
    if asked.dry_run:
        with no_folder_without_a_run(folder):
            training = prepare(recipe, folder, start, restart=asked.restart, foreign=True)
            if training is not None:
                describe_dry_run(training)
        return
    run = fit(recipe, folder, start, restart=asked.restart, foreign=True)
    best = run.best or run.checkpoint
    log.info("done: %s; draw from it with `jitflow sample %s`", best, best)


def _recipe_of(words: list[str]) -> dict[str, Any]:
    """The settings that ``--config`` names, with the classes that the options put in their place."""
    recipe: dict[str, Any] = {}
    for word in words:
        flag, _, value = word.partition("=")
        if flag == "--config":
            recipe.update(read_recipe(value))
        elif flag in ("--model", "--data") and value:
            recipe[flag.removeprefix("--")] = {"class_path": value}
    return recipe


def _with_recipe_paths(args: list[str]) -> tuple[list[str], str | None]:
    """Replace the names of recipes by their files; also return the first name."""
    resolved, name = [], None
    words = iter(args)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in ("--config", "-c"):
            value = value if equals else next(words, "")
            if not value:
                raise ConfigError("--config needs the name of a recipe or a file, such as images/jit_b16_256")
            name = name or (Path(value).stem if Path(value).is_file() else value)
            resolved.append(f"--config={_readable(find_recipe(value))}")
        else:
            resolved.append(word)
    return resolved, name


def _readable(path: Path) -> Path:
    """The recipe itself, or a copy in which classes have the names of today."""
    recipe = read_recipe(path)
    held = yaml.safe_load(path.read_text(encoding="utf-8"))
    return path if recipe == held else _written(recipe)


def _with_recorded_recipe(words: list[str]) -> list[str]:
    """Put the recorded recipe of a run before the options, where only ``--resume`` says what shall be trained."""
    from jitflow.run.start import AUTO, recipe_to_resume

    if any(word.startswith("--config=") for word in words) or {"-h", "--help"} & set(words):
        return words
    resume = _value_of("--resume", words)
    place = _value_of("--run_dir", words) if resume == AUTO else resume
    if not place:
        return words
    recipe = recipe_to_resume(place)
    try:
        check_classes(recipe)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}; if you trust it, name its recipe with --config") from None
    return [f"--config={_written(recipe)}", *words]


def _value_of(option: str, words: list[str]) -> str:
    """What is given for an option; empty where it is not given."""
    return next((word.partition("=")[2] for word in words if word.startswith(f"{option}=")), "")


def _written(recipe: dict[str, Any]) -> Path:
    """A file that holds a recipe, for the parser, which reads files; removed at the end of the process."""
    folder = tempfile.mkdtemp(prefix="jitflow-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = Path(folder) / "recipe.yaml"
    write_text(file, yaml.safe_dump(recipe, sort_keys=False))
    return file
