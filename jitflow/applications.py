"""The applications by name: the one table, strings only, imported when they are used."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitflow.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from jitflow.training.application import Application

BUILT_IN = {
    "images": "jitflow.apps.images.application:IMAGES",
    "text": "jitflow.apps.text.application:TEXT",
    "microdoppler": "jitflow.apps.microdoppler.application:MICRODOPPLER",
}
# Classes as files of before name them; what such a file means stays readable for ever.
FORMER_CLASSES = {
    "jitflow.training.jit_module.JiTLightningModule": "jitflow.apps.images.module.JiTLightningModule",
    "jitflow.training.text_module.TextLightningModule": "jitflow.apps.text.module.TextLightningModule",
    "jitflow.training.user_dit.UserConditionedDiT": "jitflow.apps.microdoppler.module.UserConditionedDiT",
    "jitflow.data.image_folder.JiTDataModule": "jitflow.apps.images.data.JiTDataModule",
    "jitflow.data.latents.LatentDataModule": "jitflow.apps.microdoppler.data.LatentDataModule",
    "jitflow.data.text.TextDataModule": "jitflow.apps.text.data.TextDataModule",
    "jitflow.training.text_data.TextRecipeData": "jitflow.apps.text.data.TextDataModule",
}
_MODULES = {
    "jitflow.apps.images.module.JiTLightningModule": "images",
    "jitflow.apps.text.module.TextLightningModule": "text",
    "jitflow.apps.microdoppler.module.UserConditionedDiT": "microdoppler",
}


def list_applications() -> list[str]:
    """List the names of the applications; none of them is imported."""
    return list(BUILT_IN)


def get_application(name: str) -> Application:
    """Import an application.

    Args:
        name: Its name, such as ``"images"``.

    Raises:
        ConfigError: If there is none of this name.
    """
    found: Application = getattr(importlib.import_module(application_module(name)), BUILT_IN[name].partition(":")[2])
    return found


def application_module(name: str) -> str:
    """Return the dotted name of the module that holds an application; it is not imported.

    Args:
        name: The application's name.

    Raises:
        ConfigError: If there is none of this name.
    """
    if name not in BUILT_IN:
        raise unknown_name("application", name, BUILT_IN)
    return BUILT_IN[name].partition(":")[0]


def recipe_folder(name: str) -> Path:
    """Return the folder of an application's recipes: ``recipes`` beside its module, which is not imported."""
    module = application_module(name)
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ConfigError(f"the application {name} is listed, but its module {module} is not there; install it again")
    return Path(spec.origin).parent / "recipes"


def application_name(recorded: str) -> str:
    """Return the application that a file means by its record: a name, or a class as files of before name it.

    Args:
        recorded: What the file holds; another class than ours, or nothing, means images.
    """
    return recorded if recorded in BUILT_IN else _MODULES.get(FORMER_CLASSES.get(recorded, recorded), "images")


def load_object(path: str) -> Any:
    """Import what a string names, such as ``"jitflow.apps.text.judge:evaluate_command"``."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)
