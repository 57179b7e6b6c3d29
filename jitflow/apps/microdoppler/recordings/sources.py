"""Find raw radar recordings, and whose they are: in folders, by the names of files, or listed by a manifest."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jitflow.apps.microdoppler.arrays.description import ArrayDescription
from jitflow.apps.microdoppler.manifest import (
    LABELS,
    PATHS,
    RECORDINGS,
    SESSIONS,
    WINDOW_COLUMNS,
    find_manifest,
    read_manifest,
)
from jitflow.apps.microdoppler.recordings.formats import FORMATS
from jitflow.apps.microdoppler.recordings.radar import RADAR_NAME
from jitflow.apps.microdoppler.user_files import file_origin, listed, names_session, number_at_end, number_in_name
from jitflow.errors import DataError, MissingFileError
from jitflow.io.file_tree import list_tree
from jitflow.io.files import user_path
from jitflow.io.table_file import TABLE_SUFFIXES, read_table

log = logging.getLogger(__name__)

# Names of the Glasgow set: activity, person, activity again, repetition.
_GLASGOW = re.compile(r"^\d+P(\d+)A(\d+)R(\d+)", re.IGNORECASE)
# A file's name may have 255 bytes.
_MOST_LETTERS = 60
_UNSAFE = re.compile(r"[^\w.+-]+")
LAYOUT = (
    "name the user by a folder that ends in a number (ID_1/rec01.dat), by the file (user_01_rec01.dat, or "
    "1P01A01R01.dat as in the Glasgow set), or list the recordings in a manifest.csv (path,user,session)"
)


@dataclass(frozen=True)
class Source:
    """A raw recording of a user.

    Attributes:
        path: The file.
        user: Number of the user, from 1.
        name: Name that no other recording has, which can be part of a file's.
        session: Session; empty if it is unknown.
        columns: Further columns of a manifest, by name.
    """

    path: Path
    user: int
    name: str
    session: str = ""
    columns: dict[str, str] = field(default_factory=dict)


def find_recordings(given: Sequence[str | Path]) -> list[Source]:
    """Find recordings and their users.

    Args:
        given: Files; folders, which are searched; manifests of recordings, or folders with one.

    Returns:
        The recordings, in the order of what was given, then by name.

    Raises:
        MissingFileError: If something does not exist.
        DataError: If there are none, a user is unknown, or a file is given twice.
    """
    if not given:
        raise DataError(f"name recordings ({', '.join(FORMATS)}), folders of them, or a manifest.csv")
    found: list[Source] = []
    for item in given:
        path = user_path(item)
        if not path.exists():
            raise MissingFileError(f"{path} does not exist; name recordings ({', '.join(FORMATS)}) or their folder")
        manifest = find_manifest(path) if path.is_dir() or path.suffix.lower() in TABLE_SUFFIXES else None
        if manifest is not None:
            found += _from_manifest(manifest)
        elif path.is_dir():
            tree = list_tree(path)
            tree.log_left_out(FORMATS)
            found += [_from_name(file, path) for file in tree.files(FORMATS)]
        else:
            absolute = path.absolute()
            found.append(_from_name(absolute, _folder_of_users(absolute)))
    if not found:
        raise DataError(f"there are no recordings ({', '.join(FORMATS)}) in {listed(map(str, given))}; {LAYOUT}")
    twice = [path for path, count in Counter(source.path.resolve() for source in found).items() if count > 1]
    if twice:
        raise DataError(f"the recording {twice[0]} is given twice; name it once")
    _warn_of_campaigns(found)
    return _with_own_names(found)


def find_radar(given: Sequence[str | Path]) -> Path | None:
    """Find the radar's file in the folder of recordings, as the simulator writes it; None if there is none.

    Args:
        given: As in :func:`find_recordings`.
    """
    for item in given:
        path = user_path(item)
        place = (path if path.is_dir() else path.parent) / RADAR_NAME
        if place.is_file():
            return place
    return None


def _from_manifest(path: Path) -> list[Source]:
    """Read the recordings that a manifest lists; all its columns go on to that of the spectrograms."""
    splits, _ = read_manifest(path, ArrayDescription())
    kept = {file.path: (user, file) for users in splits.values() for user, files in users.items() for file in files}
    table = read_table(path, what="manifest")
    paths = table[next(name for name in PATHS if name in table)]
    session_name, recording_name = (
        next((name for name in known if name in table), None) for known in (SESSIONS, RECORDINGS)
    )
    left = (*PATHS, *LABELS, *SESSIONS, *RECORDINGS, *WINDOW_COLUMNS)
    further = [name for name in table if name not in left]
    found = []
    for row, name in enumerate(paths):
        if path.parent / name in kept:
            user, file = kept[path.parent / name]
            columns = {column: table[column][row] for column in further}
            session = table[session_name][row] if session_name else ""
            stated = table[recording_name][row] if recording_name else ""
            # Of a path that leads elsewhere, the last folder tells files apart well enough.
            inner = Path(name) if file.path.is_relative_to(path.parent) else Path(*Path(name).parts[-2:])
            own = Path(stated) if stated else inner.with_suffix("")
            found.append(Source(file.path, user, _safe_name(own), session, columns))
    return found


def _from_name(path: Path, root: Path) -> Source:
    """Read the user of a recording from its name or those of its folders below a folder."""
    inner = path.relative_to(root)
    glasgow = _GLASGOW.match(path.name)
    if glasgow:
        columns = {"activity": str(int(glasgow[2])), "repetition": str(int(glasgow[3]))}
        columns["campaign"] = inner.parent.as_posix()
        return _checked(Source(path, int(glasgow[1]), _safe_name(inner.with_suffix("")), "", columns))
    number = number_in_name(path.name)
    for folder in inner.parts[:-1]:
        if number is None and not names_session(folder):
            number = number_at_end(folder)
    if number is None:
        raise DataError(f"whose recording {path} is cannot be told; {LAYOUT}")
    return _checked(Source(path, number, _safe_name(inner.with_suffix("")), file_origin(root, number, path).session))


def _folder_of_users(path: Path) -> Path:
    """Return the folder that holds the folder of a recording's user, which may have folders of sessions in it."""
    own = path.parent
    while names_session(own.name):
        own = own.parent
    return own.parent


def _checked(source: Source) -> Source:
    if source.user < 1:
        raise DataError(f"{source.path}: users are numbered from 1; rename user 0")
    return source


def _safe_name(path: Path) -> str:
    """Join the names of a file and its folders to one that a file can have."""
    joined = "-".join(_UNSAFE.sub("_", part) for part in path.parts if part not in ("..", path.anchor))
    return joined[-_MOST_LETTERS:]


def _with_own_names(found: Sequence[Source]) -> list[Source]:
    """Number recordings whose names would be equal, such as those of two folders."""
    counts: Counter[str] = Counter()
    named = []
    for source in found:
        key = source.name.lower()
        counts[key] += 1
        name = source.name if counts[key] == 1 else f"{source.name}~{counts[key]}"
        named.append(Source(source.path, source.user, name, source.session, source.columns))
    return named


def _warn_of_campaigns(found: Sequence[Source]) -> None:
    """Warn if a number stands for people of several folders of the Glasgow set, which counts anew in each campaign."""
    folders = defaultdict(set)
    for source in found:
        if "campaign" in source.columns:
            folders[source.user].add(source.columns["campaign"])
    several = sorted(user for user, names in folders.items() if len(names) > 1)
    if several:
        log.warning(
            "user %s is in several folders (%s): the Glasgow set counts people anew in each of them; convert one "
            "folder at a time, or list the recordings in a manifest.csv",
            *(listed(map(str, several)), listed(sorted(folders[several[0]]))),
        )
