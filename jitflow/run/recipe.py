"""Recipes: all settings of a training in a YAML file, found by name among the applications' files.

A recipe names classes with ``class_path`` and ``init_args``, as Lightning's command line does, but works without it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jitflow.applications import FORMER_CLASSES, application_packages, import_module, list_applications, recipe_folder
from jitflow.errors import ConfigError, MissingFileError, unknown_name
from jitflow.io.yaml_file import read_yaml

_LIBRARIES = ("jitflow", "torch", "torchvision", "lightning")


def list_recipes() -> list[str]:
    """List the recipes of the applications, such as ``"images/jit_b16_256"``."""
    return sorted(f"{name}/{path.stem}" for name in list_applications() for path in recipe_folder(name).glob("*.yaml"))


def find_recipe(name: str | Path) -> Path:
    """Find a recipe: the file of that path if there is one, else an application's recipe of that name.

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
    application, _, stem = str(name).partition("/")
    # Only the named application is imported: a broken package of another application must not matter here.
    if application in list_applications() and "/" not in stem:
        path = recipe_folder(application) / f"{stem}.yaml"
        if path.is_file():
            return path
    raise unknown_name("recipe", str(name), list_recipes())


def read_recipe(name: str | Path) -> dict[str, Any]:
    """Read a recipe's settings, with outdated class names replaced; raise ConfigError if it is not valid YAML."""
    path = find_recipe(name)
    settings = read_yaml(path, what="recipe")
    if not isinstance(settings, dict):
        raise ConfigError(f"recipe {path} must hold settings by name")
    return {name: _rename_former_classes(value) for name, value in settings.items()}


def _rename_former_classes(value: Any) -> Any:
    """Replace outdated class names in nested settings."""
    if isinstance(value, dict):
        named = {key: _rename_former_classes(inner) for key, inner in value.items()}
        path = named.get("class_path")
        return (
            {**named, "class_path": FORMER_CLASSES[path]} if isinstance(path, str) and path in FORMER_CLASSES else named
        )
    return [_rename_former_classes(item) for item in value] if isinstance(value, list) else value


def override(recipe: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Set values of a recipe by dotted name, where ``model.x`` and ``data.x`` are arguments of its classes.

    Args:
        recipe: A recipe; it is not modified.
        changes: Values by name, such as ``{"model.learning_rate": 1e-3, "trainer.max_epochs": 5}``.

    Returns:
        The new recipe.
    """
    result = copy_nested(recipe)
    for name, value in changes.items():
        *outer, last = _full_name(name).split(".")
        place = result
        for key in outer:
            inner = place.get(key)
            place[key] = inner if isinstance(inner, dict) else {}
            place = place[key]
        place[last] = copy_nested(value)
    return result


def _full_name(name: str) -> str:
    section, dot, rest = name.partition(".")
    return f"{section}.init_args.{rest}" if section in ("model", "data") and dot else name


def copy_nested(value: Any) -> Any:
    """Copy nested settings to plain values, as in a YAML file: lists instead of tuples, paths as text."""
    if isinstance(value, Mapping):
        return {str(name): copy_nested(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [copy_nested(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested settings to dotted names, with ``model.x`` for an argument of the model's class."""
    flat: dict[str, Any] = {}

    def add(inner: Mapping[str, Any], prefix: str) -> None:
        for name, value in inner.items():
            if isinstance(value, Mapping) and value:
                add(value, prefix if name == "init_args" and prefix in ("model.", "data.") else f"{prefix}{name}.")
            else:
                flat[f"{prefix}{name}"] = value

    add(settings, "")
    return flat


def importable_packages(allow_import: Collection[str] = ()) -> set[str]:
    """Return the packages whose classes a recipe may name: jitflow, torch, Lightning, the applications', others.

    Args:
        allow_import: Further packages, whose code is trusted.
    """
    return {*_LIBRARIES, *application_packages(), *allow_import}


def find_class(spec: Mapping[str, Any], allow_import: Collection[str] = ()) -> Any:
    """Import the class that a ``class_path`` names; outdated names are accepted.

    Args:
        spec: ``{"class_path": ..., "init_args": {...}}``.
        allow_import: Packages that it may name besides jitflow, torch, torchvision, Lightning and the applications';
            importing a package runs its code.

    Returns:
        The class.

    Raises:
        ConfigError: If the class is of another package, which is then not imported, or does not exist.
    """
    path = str(spec.get("class_path"))
    module_name, _, class_name = FORMER_CLASSES.get(path, path).rpartition(".")
    known = importable_packages(allow_import)
    if module_name.partition(".")[0] not in known:
        raise forbidden_import(path)
    try:
        found = getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError, TypeError, ValueError):
        found = None
    if not isinstance(found, type):
        raise ConfigError(f"recipe: there is no class {path}")
    if found.__module__.partition(".")[0] not in known:
        # A module has names of what it imports, such as subprocess.Popen.
        raise forbidden_import(f"{found.__module__}.{found.__qualname__}")
    return found


def forbidden_import(path: str) -> ConfigError:
    """Return the error for a class of a recipe whose package may not be imported.

    Args:
        path: Dotted name of the class.
    """
    package = path.partition(".")[0]
    if not package.isidentifier():
        return ConfigError(f"recipe: a class_path is a dotted name, such as package.module.Class; got {path!r:.80}")
    return ConfigError(
        f"the recipe names {path:.80}, and importing the package {package} would run its code; if you trust it, add "
        f"--allow_import {package}"
    )


def import_loss_terms(settings: Mapping[str, Any], allow_import: Collection[str] = ()) -> None:
    """Import the classes among a model's loss terms, which have dotted names; the library's own have short ones.

    Args:
        settings: Settings of a model.
        allow_import: As in :func:`find_class`.

    Raises:
        ConfigError: If a class is refused or does not exist.
    """
    given = settings.get("loss_terms")
    for name in given if isinstance(given, Mapping) else ():
        if "." in str(name):
            find_class({"class_path": name}, allow_import)


def check_classes(settings: Any, allow_import: Collection[str] = ()) -> None:
    """Raise ConfigError if nested settings name a class that :func:`find_class` refuses or does not find.

    Args:
        settings: A recipe, or a part of one.
        allow_import: As in :func:`find_class`.
    """
    if isinstance(settings, Mapping):
        if "class_path" in settings:
            find_class(settings, allow_import)
        import_loss_terms(settings, allow_import)
    inside = settings.values() if isinstance(settings, Mapping) else settings if isinstance(settings, list) else ()
    for inner in inside:
        check_classes(inner, allow_import)


def build(spec: Mapping[str, Any], allow_import: Collection[str] = ()) -> Any:
    """Instantiate the class that a recipe's ``class_path`` and ``init_args`` describe, nested ones included.

    Args:
        spec: ``{"class_path": ..., "init_args": {...}}``.
        allow_import: As in :func:`find_class`.

    Returns:
        The instance.

    Raises:
        ConfigError: If a class is refused or does not exist.
    """
    cls = find_class(spec, allow_import)
    arguments = spec.get("init_args") or {}
    return cls(**{name: build_nested(value, allow_import) for name, value in arguments.items()})


def build_nested(value: Any, allow_import: Collection[str] = ()) -> Any:
    """Instantiate every ``class_path`` in nested recipe settings; other values are returned unchanged."""
    if isinstance(value, Mapping):
        if "class_path" in value:
            return build(value, allow_import)
        return dict(value)
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return [build_nested(item, allow_import) for item in value]
    return value
