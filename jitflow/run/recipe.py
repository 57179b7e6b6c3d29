"""Recipes: settings of a whole training in YAML, carried by the package and found by name.

A recipe names classes with ``class_path`` and ``init_args``, as Lightning's command line does, and can be
built here without it.
"""

from __future__ import annotations

import importlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from jitflow.applications import BUILT_IN, FORMER_CLASSES
from jitflow.errors import ConfigError, MissingFileError, unknown_name


def list_recipes() -> list[str]:
    """List the recipes of the package, such as ``"images/jit_b16_256"``."""
    return sorted(f"{name}/{path.stem}" for name in BUILT_IN for path in _recipe_folder(name).glob("*.yaml"))


def find_recipe(name: str | Path) -> Path:
    """Find a recipe: the file of that path if there is one, else the package's recipe of that name.

    Args:
        name: A path, or a name as :func:`list_recipes` gives it.

    Returns:
        Path of the YAML file.

    Raises:
        ConfigError: If there is neither; with the nearest names.
        MissingFileError: If the name ends in ``.yaml`` and there is no such file.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml"):
        raise MissingFileError(f"recipe {path} does not exist")
    if str(name) not in list_recipes():
        raise unknown_name("recipe", str(name), list_recipes())
    application, _, stem = str(name).partition("/")
    return _recipe_folder(application) / f"{stem}.yaml"


def _recipe_folder(application: str) -> Path:
    return Path(str(files(f"jitflow.apps.{application}") / "recipes"))


def read_recipe(name: str | Path) -> dict[str, Any]:
    """Read a recipe's settings; raise ConfigError if it is not valid YAML."""
    path = find_recipe(name)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # A ValueError is text that is no UTF-8, or a value that its tag does not fit.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"recipe {path} is not valid YAML ({reason})") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"recipe {path} must hold settings by name")
    return settings


def build(spec: dict[str, Any], *, foreign: bool = False) -> Any:
    """Build the object that a ``class_path`` with ``init_args`` describes.

    Args:
        spec: ``{"class_path": ..., "init_args": {...}}``.
        foreign: Also accept classes of other packages than jitflow and Lightning, which can run any code;
            for what a user typed, not for what came in a file.

    Returns:
        The object.

    Raises:
        ConfigError: If the class is foreign or does not exist.
    """
    module_name, _, class_name = str(spec["class_path"]).rpartition(".")
    if not foreign and module_name.split(".")[0] not in ("jitflow", "lightning"):
        raise ConfigError(f"a recipe can only name classes of jitflow and lightning; got {spec['class_path']}")
    module_name, _, class_name = FORMER_CLASSES.get(str(spec["class_path"]), str(spec["class_path"])).rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError):
        raise ConfigError(f"recipe: there is no class {spec['class_path']}") from None
    return cls(**spec.get("init_args", {}))
