"""Registry of applications, built in or from other packages; each is imported only when it is needed.

Another package adds an application through an entry point of the group ``jitflow.applications``::

    [project.entry-points."jitflow.applications"]
    toy = "toy.application:TOY"
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jitflow.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from jitflow.training.application import Application

GROUP = "jitflow.applications"
BUILT_IN = {
    "images": "jitflow.apps.images.application:IMAGES",
    "text": "jitflow.apps.text.application:TEXT",
    "microdoppler": "jitflow.apps.microdoppler.application:MICRODOPPLER",
}
# Classes of applications that ``from jitflow import ...`` gives.
EXPORTS = {
    "JiTLightningModule": "jitflow.apps.images.module",
    "JiTDataModule": "jitflow.apps.images.data",
}
# Published checkpoints do not name an application; their format tells which one reads them.
RELEASES = {"JiT": "images", "LightningDiT": "microdoppler"}
# Class paths that earlier versions wrote into files, and where those classes are now, so that old files stay readable.
FORMER_CLASSES = {
    "jitflow.training.jit_module.JiTLightningModule": "jitflow.apps.images.module.JiTLightningModule",
    "jitflow.training.text_module.TextLightningModule": "jitflow.apps.text.module.TextLightningModule",
    "jitflow.training.user_dit.UserConditionedDiT": "jitflow.apps.microdoppler.module.UserConditionedDiT",
    "jitflow.data.image_folder.JiTDataModule": "jitflow.apps.images.data.JiTDataModule",
    "jitflow.data.latents.LatentDataModule": "jitflow.apps.microdoppler.data.LatentDataModule",
    "jitflow.data.text.TextDataModule": "jitflow.apps.text.data.TextDataModule",
    "jitflow.training.text_data.TextRecipeData": "jitflow.apps.text.data.TextDataModule",
}


def application_name(recorded: str, *, default: str = "images") -> str:
    """Return the name of the application that a checkpoint or recipe belongs to.

    Args:
        recorded: What the file records: an application's name, installed or not, or the class path of a module.
        default: The application assumed for a class of another library and for an empty record.

    Returns:
        The name of the application.
    """
    current = FORMER_CLASSES.get(recorded, recorded)
    for name, where in BUILT_IN.items():
        package = where.rpartition(".")[0]
        if current == name or current.startswith(f"{package}."):
            return name
    # A class path contains a dot, an application's name does not.
    return current if current and "." not in current else default


def summaries() -> dict[str, tuple[str, dict[str, str]]]:
    """Return a one-line summary, and an example of each command, of each built-in application that has commands.

    Both stand in the application's package (``SUMMARY``, ``EXAMPLES``), which imports nothing else.
    """
    packages = {
        name: importlib.import_module(path.partition(":")[0].rpartition(".")[0]) for name, path in BUILT_IN.items()
    }
    return {name: (p.SUMMARY, p.EXAMPLES) for name, p in packages.items() if hasattr(p, "SUMMARY")}


def list_applications() -> list[str]:
    """List the names of the applications, built-in ones first; none of them is imported."""
    return [*BUILT_IN, *_plugins(_import_path())]


def get_application(name: str) -> Application:
    """Import an application by name; a built-in one wins over an installed package's of the same name.

    Args:
        name: Its name, such as ``"images"``.

    Returns:
        The application.

    Raises:
        ConfigError: If there is none of this name, or its package is broken; the message names the package.
    """
    if name in BUILT_IN:
        found: Application = load_object(BUILT_IN[name])
        return found
    return _load_plugin(name, _find_plugin(name))


def application_module(name: str) -> str:
    """Return the dotted name of the module that defines an application, without importing it.

    Args:
        name: The application's name.

    Raises:
        ConfigError: If there is none of this name.
    """
    if name in BUILT_IN:
        return BUILT_IN[name].partition(":")[0]
    return next(iter(_find_plugin(name).values())).value.partition(":")[0]


def recipe_folder(name: str) -> Path:
    """Return the folder of an application's recipes, ``recipes`` beside its module, without importing it."""
    top, *inner = application_module(name).split(".")
    with _without_working_folder() if name not in BUILT_IN else nullcontext():
        spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        raise ConfigError(f"the application {name} is listed, but its module {top} is missing; install it again")
    return Path(spec.origin).parent.joinpath(*inner[:-1], "recipes")


def application_packages() -> set[str]:
    """Names of the top-level packages that define applications; none of them is imported."""
    return {application_module(name).partition(".")[0] for name in list_applications()}


def import_module(name: str) -> ModuleType:
    """Import a module; an application's package is never imported from the working folder.

    Args:
        name: Its dotted name.

    Raises:
        ImportError: If there is no such module.
    """
    installed = name.partition(".")[0] in application_packages()
    with _without_working_folder() if installed else nullcontext():
        return importlib.import_module(name)


def load_object(path: str) -> Any:
    """Import an application's class or function by its path, such as ``"jitflow.apps.text.commands:sample"``."""
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


@cache
def _plugins(path: tuple[str, ...]) -> dict[str, dict[str, EntryPoint]]:
    """Entry points of applications in the packages on a path, by application name, then by package name."""
    from importlib.metadata import distributions

    found: dict[str, dict[str, EntryPoint]] = {}
    for distribution in distributions(path=list(path)):
        for entry in distribution.entry_points.select(group=GROUP):
            if entry.name not in BUILT_IN:
                # Python imports the first of two packages with the same name.
                found.setdefault(entry.name, {}).setdefault(str(distribution.metadata["Name"]), entry)
    return found


def _find_plugin(name: str) -> dict[str, EntryPoint]:
    """Entry points of an application, by package name; raise ConfigError if there is none."""
    plugins = _plugins(_import_path())
    if name not in plugins:
        raise unknown_name("application", name, [*BUILT_IN, *plugins])
    return plugins[name]


def _load_plugin(name: str, entries: dict[str, EntryPoint]) -> Application:
    """Import an application through its entry point; raise ConfigError, naming the package, if that fails."""
    if len(entries) > 1:
        raise ConfigError(
            f"the packages {' and '.join(sorted(entries))} both define an application {name!r}; uninstall one of them"
        )
    package, entry = next(iter(entries.items()))
    try:
        with _without_working_folder():
            found = entry.load()
    # A package's own code can fail in any way.
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(
            f"the application {name!r} of the package {package} cannot be imported from {entry.value} "
            f"({type(error).__name__}: {reason}); fix or uninstall the package"
        ) from error
    from jitflow.training.application import Application

    if not isinstance(found, Application):
        raise ConfigError(
            f"the package {package} gives {entry.value} as the application {name!r}, which is no "
            f"jitflow.training.application.Application but a {type(found).__name__}; fix or uninstall the package"
        )
    recorded = getattr(found.module, "application", None)
    if "." in name or {found.name, recorded} != {name}:
        raise ConfigError(
            f"the application {name!r} of the package {package} has the name {found.name!r}, and its module's "
            f"application is {recorded!r}; all three must be one name without dots"
        )
    return found


def _import_path() -> tuple[str, ...]:
    """``sys.path`` without the working folder, which Python puts first and which may contain untrusted files.

    The working folder stays if PYTHONPATH names it or an editable installation has put it after the standard library.
    """
    here = os.path.realpath(".")
    named = {os.path.realpath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry}
    if here in named:
        return tuple(sys.path)
    library = os.path.dirname(os.__file__)  # noqa: PTH120 (compared with an entry, character by character)
    installed = sys.path.index(library) if library in sys.path else len(sys.path)
    return tuple(
        entry
        for place, entry in enumerate(sys.path)
        if entry and (place > installed or os.path.realpath(entry) != here)
    )


@contextmanager
def _without_working_folder() -> Iterator[None]:
    """Exclude the working folder from imports inside the block."""
    before = sys.path[:]
    sys.path[:] = _import_path()
    try:
        yield
    finally:
        sys.path[:] = before
