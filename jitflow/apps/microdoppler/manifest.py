"""Manifest of a data set of spectrograms: a table that names each file's user, session, recording and split."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

from jitflow.apps.microdoppler.arrays.description import DESCRIPTION_NAME, NONE, ArrayDescription
from jitflow.apps.microdoppler.user_files import UserFile, listed, number_at_end
from jitflow.errors import DataError, MissingFileError, unknown_name
from jitflow.io.file_tree import log_once
from jitflow.io.table_file import TABLE_SUFFIXES, read_table

MANIFEST = "manifest"
PATHS = ("path", "file", "filename")
"""Names of the column of files."""
LABELS = ("user", "user_id", "subject", "subject_id")
SESSIONS = ("session", "session_id")
RECORDINGS = ("recording", "recording_id")
WINDOW_COLUMNS = _START, _STOP, _DURATION = "start_sec", "stop_sec", "duration_sec"
_SPLITS = ("train", "val")


def find_manifest(data_dir: Path) -> Path | None:
    """Find the manifest of a data set: the given file, or ``manifest.csv`` or ``.parquet`` in the given folder.

    Args:
        data_dir: Folder of the data set, or its manifest.
    """
    if data_dir.suffix.lower() in TABLE_SUFFIXES and not data_dir.is_dir():
        return data_dir
    found = [
        data_dir / f"{MANIFEST}{suffix}" for suffix in TABLE_SUFFIXES if (data_dir / f"{MANIFEST}{suffix}").is_file()
    ]
    if len(found) > 1:
        raise DataError(f"{data_dir} has {found[0].name} and {found[1].name}; keep one, or name it as the data")
    return found[0] if found else None


def read_manifest(path: Path, description: ArrayDescription) -> tuple[dict[str, dict[int, list[UserFile]]], str]:
    """Read the samples that a manifest lists.

    Args:
        path: A ``.csv`` or ``.parquet`` with the columns ``path`` (from the manifest's folder) and ``user``, and
            optionally ``session``, ``recording``, ``start_sec`` with ``stop_sec`` or ``duration_sec``, ``split``
            (``train``, ``val``; other values and an empty one leave a file out). Columns that are neither these nor
            conditions are not used.
        description: States other names of the columns, and the conditions.

    Returns:
        By split (``""`` without such a column) and user the files, sorted by name; and the column that groups them,
        empty if there is none.

    Raises:
        MissingFileError: If a file does not exist.
        DataError: If a column is missing, a file is listed twice, or a value is invalid; names the row.
    """
    table = read_table(path, what=MANIFEST)
    paths = table[_column(path, table, None, PATHS, "the files")]
    label = _column(path, table, description.label, LABELS, "the users")
    session = _optional(path, table, description.group, (*SESSIONS, *RECORDINGS))
    recording, its_session = (_optional(path, table, None, known) for known in (RECORDINGS, SESSIONS))
    conditions = [_column(path, table, name, (), "a condition") for name in description.conditions or ()]
    found: dict[str, dict[int, list[UserFile]]] = defaultdict(lambda: defaultdict(list))
    seen: dict[str, int] = {}
    for row, name in enumerate(paths):
        where = f"{path}, row {row + 1}"
        if seen.setdefault(name, row) != row:
            raise DataError(f"{where}: {name!r} is listed in row {seen[name] + 1} already; remove one")
        file = path.parent / name
        if not name or not file.is_file():
            raise MissingFileError(f"{where}: the file {file} does not exist; correct the path in the manifest")
        split = table["split"][row].lower() if "split" in table else ""
        if "split" in table and split not in _SPLITS:
            log_once(f"{path}: rows whose split is neither train nor val are left out, such as {split!r}")
            continue
        user = number_at_end(table[label][row])
        if user is None or user < 1:
            raise DataError(
                f"{where}: {label} is {table[label][row]!r}; it must be a number from 1, or end in one, such as user01"
            )
        found[split][user].append(
            UserFile(
                file,
                table[session][row] if session else "",
                _recording(table, row, recording, its_session),
                _window(where, table, row),
                {name: table[name][row].strip() for name in conditions},
            )
        )
    if not found or ("" not in found and set(found) != set(_SPLITS)):
        raise DataError(f"{path}: the split column has no {listed(set(_SPLITS) - set(found))}; use train and val")
    ordered = {
        split: {user: sorted(files, key=lambda file: file.path) for user, files in users.items()}
        for split, users in found.items()
    }
    return ordered, session or ""


def _column(path: Path, table: dict[str, list[str]], stated: str | None, known: tuple[str, ...], what: str) -> str:
    if stated is not None:
        if stated not in table:
            raise unknown_name(f"column of {path}", stated, table)
        return stated
    name = next((name for name in known if name in table), None)
    if name is None:
        raise DataError(
            f"{path} has no column for {what} ({' or '.join(known)}); it has {listed(table)}. Rename one"
            + (f", or state `label: COLUMN` in {DESCRIPTION_NAME}" if known == LABELS else "")
        )
    return name


def _optional(path: Path, table: dict[str, list[str]], stated: str | None, known: tuple[str, ...]) -> str | None:
    if stated == NONE:
        return None
    if stated is not None:
        return _column(path, table, stated, known, "groups")
    return next((name for name in known if name in table), None)


def _recording(table: dict[str, list[str]], row: int, recording: str | None, session: str | None) -> str:
    """Return the recording of a sample, whose name may be used again in another session; empty if it is unknown."""
    name = table[recording][row] if recording else ""
    return f"{table[session][row]} {name}" if name and session else name


def _window(where: str, table: dict[str, list[str]], row: int) -> tuple[float, float] | None:
    """Return the start and the end of a sample in its recording; None where the manifest has no such columns."""
    if _START not in table or not (_STOP in table or _DURATION in table) or not table[_START][row]:
        return None
    end = _STOP if _STOP in table else _DURATION
    try:
        start, stop = float(table[_START][row]), float(table[end][row])
    except ValueError:
        start = stop = math.nan
    stop += start if end == _DURATION else 0
    if not (math.isfinite(start) and start < stop):
        raise DataError(
            f"{where}: {_START} {table[_START][row]!r} and {end} {table[end][row]!r} are no stretch of time"
        )
    return start, stop
