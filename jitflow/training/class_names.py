"""Names of the classes by label, which checkpoints keep: in requests, file names, captions and checks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jitflow.errors import CheckpointError, ConfigError
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


def file_parts(names: Sequence[str], num_classes: int) -> list[str]:
    """Return the part of file names for each class: its safe name, or ``class3`` where there is none; all differ.

    Args:
        names: Names of the classes by label; may be fewer than there are.
        num_classes: Number of classes; "any class" follows them.
    """
    named = names_by_label(names, range(len(names)))
    parts = [safe_name(named.get(y, "")) or f"class{y}" for y in range(num_classes + 1)]
    # Two names may differ only in characters that are not safe, such as "a b" and "a:b".
    while (counts := Counter(parts)).most_common(1)[0][1] > 1:
        parts = [f"{part}-class{y}" if counts[part] > 1 else part for y, part in enumerate(parts)]
    return parts


def names_by_label(names: Sequence[str], labels: Sequence[int]) -> dict[int, str]:
    """Return the class name of each label that has one; names that are just the labels' numbers are none.

    Args:
        names: Names of the classes by label.
        labels: Labels, each once or more.
    """
    if all(name == str(y) for y, name in enumerate(names)):
        return {}
    return {y: names[y] for y in sorted(set(labels)) if y < len(names)}


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


class NamedClasses:
    """Part of a module that takes the class names of its data, keeps them in checkpoints and describes them.

    Attributes:
        num_classes: Number of classes of the network.
    """

    num_classes: int
    _class_names: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes by label; empty until data or a checkpoint provide them, and where there are none."""
        return self._class_names

    def adopt_data(self, info: dict[str, Any]) -> None:
        """Take the class names of the data before training starts, unless a checkpoint provided them.

        Args:
            info: Description of the data (``get_dataset_info``).
        """
        names = info.get("classes")
        if names and len(names) < self.num_classes:
            log_once(
                f"the data have {len(names)} classes and the network {self.num_classes}: labels from {len(names)} stay "
                f"untrained; num_classes={len(names)} fits"
            )
        if self.num_classes and names and not self._class_names:
            self._class_names = tuple(map(str, names))

    def check_class_names(self, info: Mapping[str, Any]) -> None:
        """Raise ConfigError if the data have other classes than the resumed checkpoint.

        Args:
            info: Description of the data (``get_dataset_info``).
        """
        check_same_names(self._class_names, tuple(map(str, info.get("classes") or ())))

    def describe_labels(self) -> dict[str, Any]:
        """Return metadata of the labels for an export, plain values by name: the names of the classes, if known."""
        return {"classes": list(self.class_names)} if self.class_names else {}

    def extra_state(self) -> dict[str, Any]:
        """Return further checkpoint entries besides weights and settings, tensors and plain values: the class names."""
        return {"classes": list(self.class_names)} if self.class_names else {}

    def load_extra_state(self, extra: dict[str, Any]) -> None:
        """Restore the entries of :meth:`extra_state`; raise CheckpointError if they do not fit.

        Args:
            extra: The checkpoint's ``jitflow`` entry.
        """
        names = extra.get("classes") or ()
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise CheckpointError("the checkpoint's names of classes are damaged: they are no list of words")
        if len(names) > self.num_classes:
            raise CheckpointError(f"the checkpoint names {len(names)} classes for a network of {self.num_classes}")
        self._class_names = tuple(names)
