"""Find the files of numbered users in folders: class folders or flat names, pictures or arrays."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jitflow.apps.microdoppler.arrays.description import DESCRIPTION_NAME
from jitflow.errors import DataError
from jitflow.io.array_formats import ARRAY_SUFFIXES, TIFF_SUFFIXES, is_array_tiff
from jitflow.io.file_tree import list_tree
from jitflow.io.file_tree import subfolders as list_subfolders

log = logging.getLogger(__name__)

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
"""Suffixes of pictures."""
LAYOUT = (
    "expected train/ and val/ (or one folder and --val_fraction) with a folder for each user whose name ends in the "
    "user's number (ID_1/, user01/, 1/), or images named user_01_sample_001.png"
)
_FOLDER = re.compile(r"(\d+)$")
_FILE = re.compile(r"(?:^|[_-])user[_-]?(\d+)(?=[_.-])", re.IGNORECASE)
_SESSION = re.compile(r"(?:^|[_\-/ ])(?:session|sess|ses)[_\- ]?([a-z]?\d+)(?=[_\-/ .]|$)", re.IGNORECASE)
_RECORDING = re.compile(r"(?:^|[_\-/ ])(?:recording|rec)[_\- ]?([a-z]?\d+)(?=[_\-/ .]|$)", re.IGNORECASE)
_SHOWN = 5


@dataclass(frozen=True)
class UserFile:
    """A file of a user.

    Attributes:
        path: The file.
        session: Value that training and validation should not share, such as a session; empty if unknown.
        recording: Recording that the sample was cut from; empty if unknown.
        window_sec: Start and end of the sample in its recording; None if unknown.
        conditions: Values of the columns that are conditions, as text by column; empty text if unknown.
    """

    path: Path
    session: str = ""
    recording: str = ""
    window_sec: tuple[float, float] | None = None
    conditions: Mapping[str, str] = field(default_factory=dict)


def sample_suffixes(root: Path, *, described: bool) -> tuple[tuple[str, ...], bool]:
    """Decide whether the files of a data set are spectrogram arrays or pictures.

    Arrays may lie beside pictures of them, as generated ones do; a folder with fewer than half as many arrays as
    pictures is one of pictures.

    Args:
        root: Folder of the data set.
        described: Whether the owner describes arrays, which then need not be that many.

    Returns:
        Suffixes of the samples, and whether they are arrays.
    """
    files = list_tree(root / "train" if (root / "train").is_dir() else root).files((*ARRAY_SUFFIXES, *EXTENSIONS))
    arrays = [path for path in files if path.suffix.lower() in ARRAY_SUFFIXES]
    pictures = len(files) - len(arrays)
    if arrays and (described or 2 * len(arrays) >= pictures):
        if pictures:
            log.info("%s: %d pictures beside the arrays are not used", root, pictures)
        return ARRAY_SUFFIXES, True
    if files and is_array_tiff(files[0], certainly=not described):
        return TIFF_SUFFIXES, True
    return EXTENSIONS, False


def find_files(folder: Path, suffixes: tuple[str, ...] = EXTENSIONS) -> dict[int, list[UserFile]]:
    """Find the images or arrays of each user below a folder of either layout, sorted by name.

    Args:
        folder: The folder.
        suffixes: Suffixes of the samples, in lower case.

    Returns:
        Files by the user's number.

    Raises:
        DataError: If there are none, or the layout differs.
    """
    tree = list_tree(folder)
    tree.log_left_out(suffixes)
    what = "images" if suffixes == EXTENSIONS else "arrays"
    names, _ = list_subfolders(folder)
    subfolders = [folder / name for name in names]
    here = [path for path in tree.files() if path.parent == folder]
    other = [p for p in here if p.suffix.lower() not in suffixes and p.name != DESCRIPTION_NAME]
    flat = [p for p in here if p.suffix.lower() in suffixes]
    in_folders: dict[Path, list[Path]] = {}
    for subfolder in subfolders:
        files = list_tree(subfolder).files()
        other += [p for p in files if p.suffix.lower() not in suffixes]
        in_folders[subfolder] = [p for p in files if p.suffix.lower() in suffixes]

    filled = [subfolder for subfolder, files in in_folders.items() if files]
    if flat and filled:
        raise DataError(
            f"{folder} has images both in it ({listed(p.name for p in flat)}) and in folders "
            f"({listed(p.name for p in filled)}); {LAYOUT}"
        )
    if not flat and not filled:
        found = listed(p.name for p in [*subfolders, *here]) if subfolders or here else "nothing"
        raise DataError(f"there are no {what} in {folder} ({', '.join(suffixes)}); found {found}; {LAYOUT}")
    users = _by_name(folder, flat) if flat else _by_folder(folder, in_folders)
    if other:
        log.info("passed over %d files that are no %s: %s", len(other), what, listed(p.name for p in other))
    return {user_id: [file_origin(folder, user_id, path) for path in paths] for user_id, paths in users.items()}


def number_at_end(text: str) -> int | None:
    """Return the number of a user at the end of a name such as ``ID_1`` or ``user01``; None if there is none."""
    number = _FOLDER.search(text)
    return int(number[1]) if number is not None else None


def number_in_name(name: str) -> int | None:
    """Return the number of the user in a flat file name such as ``user_01_sample_001.png``; None if there is none."""
    number = _FILE.search(name)
    return int(number[1]) if number is not None else None


def names_session(name: str) -> bool:
    """Whether the name of a folder is that of a session or a recording, such as ``session2``, and not a user's."""
    return _SESSION.search(name) is not None or _RECORDING.search(name) is not None


def file_origin(folder: Path, user_id: int, path: Path) -> UserFile:
    """Read session and recording from the names of a spectrogram and its folders, such as ``session2/rec07_003.npy``.

    Args:
        folder: Folder of the data set.
        user_id: Number of the user.
        path: The file, in the folder.
    """
    name = path.relative_to(folder).as_posix()
    session, recording = (pattern.search(name) for pattern in (_SESSION, _RECORDING))
    # Numbers are the user's own, and a recording's those of its session: session 1 of two users need not be the same
    # day, nor recording 1 of two sessions the same recording.
    own = f"user {user_id} session {session[1].lower()}" if session else ""
    return UserFile(path, own, f"{own or f'user {user_id}'} recording {recording[1].lower()}" if recording else "")


def listed(names: Iterable[str]) -> str:
    """Join the names of a few files or users for a message, each once; the rest is counted."""
    counted = list(Counter(names))
    more = f" and {len(counted) - _SHOWN} more" if len(counted) > _SHOWN else ""
    return ", ".join(counted[:_SHOWN]) + more


def _by_folder(folder: Path, in_folders: Mapping[Path, list[Path]]) -> dict[int, list[Path]]:
    users: dict[int, list[Path]] = {}
    names: dict[int, str] = {}
    unmatched = []
    for subfolder, files in in_folders.items():
        number = number_at_end(subfolder.name)
        if number is None:
            unmatched += [subfolder.name] if files else []
            continue
        user_id = _user_id(number, subfolder)
        if user_id in users:
            raise DataError(f"{folder}: the folders {names[user_id]} and {subfolder.name} are both of user {user_id}")
        names[user_id] = subfolder.name
        users[user_id] = files
    if unmatched:
        raise DataError(f"{folder}: no user's number at the end of the folder name {listed(unmatched)}; {LAYOUT}")
    empty = [names[user_id] for user_id, files in users.items() if not files]
    if empty:
        raise DataError(f"no images in {folder} for {listed(empty)}; add some or remove the folder")
    return users


def _by_name(folder: Path, files: Iterable[Path]) -> dict[int, list[Path]]:
    users: dict[int, list[Path]] = defaultdict(list)
    unmatched = []
    for path in files:
        number = number_in_name(path.name)
        if number is None:
            unmatched.append(path.name)
        else:
            users[_user_id(number, path)].append(path)
    if unmatched:
        raise DataError(f"{folder}: no user's number in the name of {listed(unmatched)}; {LAYOUT}")
    return dict(users)


def _user_id(number: int, path: Path) -> int:
    if number < 1:
        raise DataError(f"{path}: users are numbered from 1; rename user 0")
    return number
