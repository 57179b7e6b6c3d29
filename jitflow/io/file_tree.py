"""List the files below a folder, for every reader of users' files: images, texts, spectrograms, references.

Symbolic links are followed. A folder that is reached again is not entered again, so loops end. Hidden files and those
that systems and tools create, such as thumbnails of network storage or shadow files of archives, are left out.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jitflow.errors import DataError

log = logging.getLogger(__name__)
_SYSTEM_NAMES = {
    "@eaDir",
    "@Recycle",
    "@Recently-Snapshot",
    "#recycle",
    "#snapshot",
    "__MACOSX",
    "__pycache__",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "Thumbs.db",
    "desktop.ini",
}
_SHOWN = 5


def is_left_out(name: str) -> bool:
    """Whether the name of a file or folder is hidden or one that systems and tools create.

    Args:
        name: Its name, without a folder.
    """
    return name.startswith(".") or name in _SYSTEM_NAMES


@dataclass
class FileTree:
    """The files of images, texts or spectrograms below a folder.

    Attributes:
        root: The folder.
        folders: Each folder with the names of its files, both sorted; folders by their whole path.
        left_out: Folders that were left out for their names, below ``root`` with forward slashes.
        hidden_files: Files that were left out for their names, likewise.
    """

    root: Path
    folders: list[tuple[Path, list[str]]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    hidden_files: list[str] = field(default_factory=list)

    def files(self, suffixes: Iterable[str] = ("",)) -> list[Path]:
        """Return the files whose names end in one of the suffixes, in any case, sorted.

        Args:
            suffixes: Endings in lower case; all files by default.
        """
        endings = tuple(suffixes)
        paths = (folder / name for folder, names in self.folders for name in names)
        return sorted(path for path in paths if path.name.lower().endswith(endings))

    def log_left_out(self, suffixes: Iterable[str]) -> None:
        """Log in one line which folders and files of these types were left out for their names.

        Args:
            suffixes: Endings in lower case.
        """
        files = [name for name in self.hidden_files if name.lower().endswith(tuple(suffixes))]
        log_left_out(self.root, [f"{name}/" for name in self.left_out] + files)


def log_left_out(root: Path, names: list[str]) -> None:
    """Log in one line which images or other files were left out as hidden or created by a system.

    Args:
        root: The folder.
        names: What was left out; nothing is logged if there is none.
    """
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        log_once(f"{root}: left out as hidden or made by a system: {', '.join(names[:_SHOWN])}{more}")


@functools.cache
def log_once(line: str, level: int = logging.INFO) -> None:
    """Log a line once per process, however often a folder is listed or a request is read.

    Args:
        line: The line.
        level: Level of the log.
    """
    log.log(level, "%s", line)


def list_tree(root: str | Path) -> FileTree:
    """List the files of images, texts or spectrograms below a folder.

    Args:
        root: The folder; its own name does not matter.

    Raises:
        DataError: If a folder cannot be read.
    """
    tree = FileTree(Path(root))
    # A link to a parent folder would list everything again.
    above = [path.stat() for path in tree.root.resolve().parents]
    _enter(tree, tree.root, {(state.st_dev, state.st_ino) for state in above})
    tree.folders.sort()
    return tree


def subfolders(folder: str | Path) -> tuple[list[str], list[str]]:
    """List the folders in a folder of images or spectrograms, sorted by name.

    Args:
        folder: The folder.

    Returns:
        Their names, and the names of those that are left out.
    """
    names = sorted(entry.name for entry in _entries(Path(folder)) if entry.is_dir())
    return [name for name in names if not is_left_out(name)], [name for name in names if is_left_out(name)]


def _enter(tree: FileTree, folder: Path, seen: set[tuple[int, int]]) -> None:
    state = folder.stat()
    if (state.st_dev, state.st_ino) in seen:
        return
    seen.add((state.st_dev, state.st_ino))
    files = []
    inner = []
    for entry in sorted(_entries(folder), key=lambda entry: entry.name):
        # A broken link counts as a file, so that the error of reading it names it.
        is_folder = entry.is_dir()
        if is_left_out(entry.name):
            kept = tree.left_out if is_folder else tree.hidden_files
            kept.append((folder / entry.name).relative_to(tree.root).as_posix())
        elif is_folder:
            inner.append(folder / entry.name)
        else:
            files.append(entry.name)
    tree.folders.append((folder, files))
    for path in inner:
        _enter(tree, path, seen)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise DataError(f"cannot list {folder} ({error.strerror}); make it readable or remove it") from None
