"""List a folder of images with one sub-folder per class, and cache the list for later runs.

The order is that of torchvision's ``ImageFolder``, on which labels and indices in old checkpoints rely.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from jitflow.errors import DataError, JitflowError, MissingFileError
from jitflow.io.file_tree import is_left_out, list_tree, log_left_out, log_once, subfolders
from jitflow.io.files import read_json, user_path, write_text

_log = logging.getLogger(__name__)

LAYOUT = "expected train/<class>/<image>, and optionally val/<class>/<image>"
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Suffixes of image files, case-insensitive; torchvision's list."""

_CACHE_NAME = ".jitflow-scan.json"
_CACHE_FORMAT = 2
MIN_FILES_CACHED = 10_000
"""Fewest image files whose list is cached: below this, listing takes about as long as reading the cache."""
# A file added within one tick of the file system's clock after the scan does not change its folder's time.
_TICK_SEC = 2.0
# Listing waits for the file system, above all on a network.
_THREADS = 16

_Directory = tuple[str, int, list[str], list[str]]
"""Path below the listed folder, time of the last change in ns, names of its images, and names of what is not used:
hidden folders (with a final slash), hidden images, and one file of each type other than images."""


@dataclass(frozen=True)
class ImageListing:
    """The image files of one split, with their classes and labels.

    Args:
        folder: The folder whose sub-folders are the classes.
        classes: Names of the classes, sorted; a label is an index into them.
        files: Path of each image below ``folder``, with forward slashes.
        labels: Label of each image, shape ``(N,)``, int64.
        left_out: Hidden folders and images, which are not used, below ``folder``; folders end in a slash.
        unused: One file of each type that is not read, below ``folder``.
    """

    folder: Path
    classes: tuple[str, ...]
    files: list[str]
    labels: np.ndarray
    left_out: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def class_counts(self) -> np.ndarray:
        """Return the number of images of each class, shape ``(K,)``."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def take(self, index: np.ndarray) -> ImageListing:
        """Return a listing of a subset of the images, with the same classes.

        Args:
            index: Indices of the images to keep, shape ``(M,)``, int64.
        """
        return replace(self, files=[self.files[i] for i in index.tolist()], labels=self.labels[index])


def split_folders(root: str | Path) -> dict[str, Path]:
    """Find the folders of the training and validation images.

    Args:
        root: A folder with ``train/`` and possibly ``val/``, or one whose sub-folders are the training classes.

    Returns:
        Folder by split: ``train``, and ``val`` if there is one.

    Raises:
        MissingFileError: If there is no such folder.
        DataError: If it is not laid out as a data set.
    """
    root = user_path(root)
    if not root.is_dir():
        raise MissingFileError(f"{root} is not a folder; {LAYOUT}")
    folders = {split: root / split for split in ("train", "val") if (root / split).is_dir()}
    if "train" in folders:
        unused = unused_folders(root)
        if unused:
            log_once(f"{root}: not used beside train/: {', '.join(unused)} (validation images are read from val/)")
        return folders
    classes = class_folders(root)
    if "val" in folders:
        raise DataError(f"{root} has val/ but no train/; {LAYOUT}")
    log_once(f"{root} has no train/; its {len(classes)} sub-folders are taken as the training classes")
    return {"train": root}


def unused_folders(root: Path) -> list[str]:
    """Return folders beside the splits ``train/`` and ``val/``, whose images are unused; none without ``train/``."""
    return [name for name in subfolders(root)[0] if name not in ("train", "val")] if (root / "train").is_dir() else []


def class_folders(folder: Path) -> list[str]:
    """Return the sorted class names (sub-folders) of a folder of images; raise DataError if there are none."""
    classes, hidden = subfolders(folder)
    if not classes:
        content = "has no class sub-folders" if any(folder.iterdir()) else "is empty"
        content = f"{content} but hidden ones ({', '.join(hidden[:5])})" if hidden else content
        raise DataError(f"{folder} {content}; {LAYOUT}")
    return classes


def check_same_classes(train: Sequence[str], val: Sequence[str], root: str | Path) -> None:
    """Raise DataError if two splits differ in their classes, since a label is an index into the sorted class names."""
    differing = set(train) ^ set(val)
    if differing:
        names = ", ".join(sorted(differing)[:5])
        raise DataError(f"train/ and val/ of {root} must have the same classes; they differ in {names}")


def list_images(folder: str | Path, *, allow_empty: bool = False) -> ImageListing:
    """List the images below a folder, using the cached list of an earlier run where it is still valid.

    The list of a large folder is kept in it as ``.jitflow-scan.json``, or in the user's cache folder if it
    cannot be written to. A class is listed again if one of its folders has changed since.

    Args:
        folder: The folder whose sub-folders are the classes.
        allow_empty: Whether a class may have no images.

    Returns:
        The images, in the order of torchvision's ``ImageFolder``.

    Raises:
        DataError: If there are no classes, a class has no images, or a folder cannot be read.
    """
    folder = user_path(folder)
    classes = class_folders(folder)
    start = time.time()
    known = _read_cache(folder)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = dict(zip(classes, pool.map(lambda name: _class_directories(folder, name, known), classes), strict=True))
    files: list[str] = []
    passed = [f"{name}/" for name in subfolders(folder)[1]]
    counts = []
    for name in classes:
        before = len(files)
        for directory, _, names, others in found[name]:
            files += [f"{directory}/{file}" for file in names]
            passed += [f"{directory}/{other}" for other in others]
        counts.append(len(files) - before)
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if empty and not allow_empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        raise DataError(
            f"no images in {folder} for the class {', '.join(empty[:5])}{more}; add some or remove the folder"
        )
    if len(files) >= MIN_FILES_CACHED and known != found:
        _write_cache(folder, found, start)
    left_out = tuple(name for name in passed if is_left_out(name.rstrip("/").rpartition("/")[2]))
    unused = _one_of_each_type(name for name in passed if name not in set(left_out))
    log_left_out(folder, list(left_out))
    if unused:
        log_once(f"{folder}: files that are no images are not used, such as {', '.join(unused[:5])}")
    return ImageListing(folder, tuple(classes), files, np.repeat(np.arange(len(classes)), counts), left_out, unused)


def _one_of_each_type(names: Iterable[str]) -> tuple[str, ...]:
    return tuple({PurePath(name).suffix.lower(): name for name in names}.values())


def listing_fingerprint(listing: ImageListing) -> str:
    """Return the SHA-256 of all file names and sizes, which shows whether a source has changed."""

    def sizes(files: list[str]) -> list[int]:
        return [(listing.folder / file).stat().st_size for file in files]

    digest = hashlib.sha256()
    pieces = [listing.files[i : i + 1024] for i in range(0, len(listing), 1024)]
    with ThreadPoolExecutor(_THREADS) as pool:
        for files, numbers in zip(pieces, pool.map(sizes, pieces), strict=True):
            lines = (f"{file}\0{number}\n" for file, number in zip(files, numbers, strict=True))
            digest.update("".join(lines).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _class_directories(folder: Path, name: str, known: dict[str, list[_Directory]]) -> list[_Directory]:
    """List the images of a class, or return its cached list if none of its folders has changed."""
    if name in known and all(_changed_ns(folder / path) == changed for path, changed, *_ in known[name]):
        return known[name]
    tree = list_tree(folder / name)
    hidden = defaultdict(list)
    for path in [f"{path}/" for path in tree.left_out] + [f for f in tree.hidden_files if f.lower().endswith(SUFFIXES)]:
        inner, _, last = path.rstrip("/").rpartition("/")
        hidden[tree.root / inner].append(last + "/" * path.endswith("/"))
    directories = []
    # Folders are sorted by full path, as in torchvision.
    for place, names in sorted(tree.folders, key=lambda item: str(item[0])):
        images = [file for file in names if file.lower().endswith(SUFFIXES)]
        others = _one_of_each_type(file for file in names if not file.lower().endswith(SUFFIXES))
        path = place.relative_to(folder).as_posix()
        directories.append((path, _changed_ns(place), images, [*hidden[place], *others]))
    return directories


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return -1


def _cache_files(folder: Path) -> tuple[Path, Path]:
    """Possible paths of the cached list: in the folder, or in the user's cache under a hash of the folder's path."""
    home = user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    return folder / _CACHE_NAME, home / "jitflow" / "scans" / f"{name}.json"


def _read_cache(folder: Path) -> dict[str, list[_Directory]]:
    for path in _cache_files(folder):
        try:
            if not path.is_file():
                continue
            content: Any = read_json(path)
            if content["format"] == _CACHE_FORMAT:
                return {
                    str(name): [
                        (str(place), int(changed), [str(n) for n in names], [str(n) for n in others])
                        for place, changed, names, others in entries
                    ]
                    for name, entries in content["classes"].items()
                }
        except (JitflowError, OSError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            _log.info("%s is unusable and will be rebuilt (%s)", path, error)
    return {}


def _write_cache(folder: Path, found: dict[str, list[_Directory]], start: float) -> None:
    newest_ns = int((start - _TICK_SEC) * 1e9)
    settled = {name: dirs for name, dirs in found.items() if all(changed < newest_ns for _, changed, *_ in dirs)}
    text = json.dumps({"format": _CACHE_FORMAT, "classes": settled}, separators=(",", ":"))
    for path in _cache_files(folder):
        try:
            write_text(path, text)
            return
        except OSError as error:
            _log.debug("cannot cache the list of %s in %s (%s)", folder, path, error)
