"""Log line for class folders that are named by numbers, whose labels follow the order of letters."""

from __future__ import annotations

from collections.abc import Sequence

from jitflow.io.file_tree import log_once


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
