"""Choose the folder of a command's results, so that no earlier results are overwritten or mixed with them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path

from jitflow.io.files import user_path

log = logging.getLogger(__name__)


def free_folder(out: str | Path, is_taken: Callable[[Path], bool]) -> Path:
    """Return the folder for samples or a report: the requested one, or a numbered one beside it if that is taken.

    Args:
        out: The requested folder.
        is_taken: Whether a folder that exists holds results of another command.

    Returns:
        ``out``, or the first of ``out-2``, ``out-3``, ... that is not taken; it is not created.
    """
    out = folder = user_path(out)
    # "." has no name to number.
    named = out if out.name not in ("", "..") else out.resolve()
    for number in itertools.count(2):
        if not (folder.is_dir() and is_taken(folder)):
            break
        folder = named.with_name(f"{named.name}-{number}")
    if folder != out:
        log.info("%s holds other results, which stay; these go to %s", out, folder)
    return folder


def holds_pictures(folder: Path) -> bool:
    """Whether a folder holds PNG images, such as samples."""
    return any(folder.glob("*.png"))
