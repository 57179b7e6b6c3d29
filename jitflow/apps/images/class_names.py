"""Names of the classes by label, which checkpoints keep: for file names of samples, tables and checks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jitflow.errors import ConfigError
from jitflow.io.file_tree import log_once

_UNSAFE = re.compile(r"[^\w.+-]+")
_LONGEST = 40
_SHOWN = 5


def safe_name(name: str) -> str:
    """Return a class's name with only letters, digits and ``-_.+``, for use in a file name.

    Args:
        name: The name, such as ``black cat``.
    """
    return _UNSAFE.sub("-", name).strip("-.")[:_LONGEST]


def log_numeric_order(classes: Sequence[str]) -> None:
    """Log once if class folders named by numbers are not labelled in numeric order.

    Args:
        classes: Names of the classes by label, in alphabetic order.
    """
    if not classes or not all(name.isascii() and name.isdigit() for name in classes):
        return
    differing = [f"{name} is label {label}" for label, name in enumerate(classes) if int(name) != label]
    if not differing or list(classes) == sorted(classes, key=int):
        return
    log_once(
        f"classes are labelled in the order of letters, not of numbers: {', '.join(differing[:3])}, ...; name the "
        "folders with leading zeros (00, 01, ...) to have both agree"
    )


def check_same_names(trained: Sequence[str], found: Sequence[str]) -> None:
    """Raise ConfigError if data have other classes than a model was trained on, so that labels would be shifted.

    Args:
        trained: Names by label in the checkpoint; empty where it has none.
        found: Names by label of the data; empty where unknown.
    """
    if not trained or not found or list(trained) == list(found):
        return
    gone = [name for name in trained if name not in set(found)]
    new = [name for name in found if name not in set(trained)]
    parts = [
        f"{what} {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for what, names in (("without", gone), ("with", new))
        if names
    ] or ["in another order"]
    raise ConfigError(
        f"the checkpoint was trained on {len(trained)} classes and the data have {len(found)} ({'; '.join(parts)}), "
        "which would shift the labels; restore the class folders, or start a new run from its weights with --init_from"
    )
