"""Checkpoint folder and its manifest, which records size and checksum of every file to detect damage."""

from __future__ import annotations

import logging
import os
import re
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jitflow.errors import CheckpointError, ConfigError
from jitflow.io.files import commit_file, file_checksum, read_json, temporary_beside, write_json

log = logging.getLogger(__name__)

MANIFEST_NAME = "manifest.json"
LAST_NAME = "checkpoint-last.pth"
PREVIOUS_NAME = "checkpoint-prev.pth"
MILESTONE = "milestone"
_FORMAT, _VERSION = "jitflow checkpoints", 1
_DIGEST = re.compile(r"[0-9a-f]{64}")
# A manifest has a few lines for each file; anything larger is not one of ours.
_MAX_MANIFEST_BYTES = 16_000_000


@dataclass(frozen=True)
class Record:
    """Manifest entry of a checkpoint file.

    Args:
        kind: Kind of checkpoint, such as ``last`` or ``milestone``.
        step: Optimiser steps done.
        num_bytes: Size of the file.
        sha256: Checksum of the file.
    """

    kind: str
    step: int
    num_bytes: int
    sha256: str

    @classmethod
    def from_json(cls, content: Any) -> Record:
        """Parse a checkpoint record that :func:`dataclasses.asdict` wrote; raise ValueError if it is malformed."""
        if not isinstance(content, dict):
            raise ValueError("a record is not a dictionary")
        record = cls(*(content.get(name) for name in ("kind", "step", "num_bytes", "sha256")))  # type: ignore[arg-type]
        numbers = (record.step, record.num_bytes)
        if not all(type(number) is int and number >= 0 for number in numbers) or not isinstance(record.kind, str):
            raise ValueError("a record holds no numbers")
        if not isinstance(record.sha256, str) or not _DIGEST.fullmatch(record.sha256):
            raise ValueError("a record holds no checksum")
        return record


class CheckpointFolder:
    """Checkpoint folder to which complete files are committed, each recorded in ``manifest.json``.

    A name can have several records: a new file's record is added before the file is renamed, so that the name is always
    known after a crash. A folder without a manifest, or with a damaged one, can be used too.

    Args:
        folder: The folder; it need not exist yet.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        # Names that this object committed, for which older records are out of date.
        self._own: dict[str, Record] = {}
        # Reading a large file takes minutes, and each of its records asks for its checksum.
        self._checksums: dict[tuple[Path | int, ...], str] = {}

    @property
    def manifest(self) -> Path:
        """Path of the manifest."""
        return self.folder / MANIFEST_NAME

    def records(self) -> dict[str, list[Record]]:
        """Read the manifest's records by file name; empty without a manifest, with a warning if it is damaged."""
        path = self.manifest
        if not path.is_file():
            return {}
        try:
            if path.stat().st_size > _MAX_MANIFEST_BYTES:
                raise ValueError("it is too large")
            content = read_json(path)
            if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (_FORMAT, _VERSION):
                raise ValueError(f"it is not of the format {_FORMAT!r} {_VERSION}")
            files = content.get("files")
            if not isinstance(files, dict) or not all(isinstance(entries, list) for entries in files.values()):
                raise ValueError("it lists no files")
            # Records must refer to files in this folder.
            return {
                name: [Record.from_json(entry) for entry in entries]
                for name, entries in files.items()
                if Path(name).name == name
            }
        except (ConfigError, ValueError) as error:
            log.warning("%s is damaged and ignored (%s); checkpoints are not verified by checksum", path, error)
            return {}

    def problem(self, path: Path, records: dict[str, list[Record]] | None = None) -> str | None:
        """Describe what is wrong with a checkpoint file.

        Args:
            path: A file of this folder.
            records: Result of :meth:`records`, to avoid reading it again.

        Returns:
            A short description of the damage; None if none is detected.
        """
        found = (self.records() if records is None else records).get(path.name)
        if found:
            if any(self._describes(record, path) for record in found):
                return None
            sizes = {record.num_bytes for record in found}
            size = path.stat().st_size
            return "its checksum differs" if size in sizes else f"it has {size} bytes instead of {max(sizes)}"
        # A truncated zip file lacks the directory at its end.
        return None if zipfile.is_zipfile(path) else "it was truncated"

    def commit(self, temporary: Path, name: str, *, kind: str, step: int, keep_previous: bool = False) -> None:
        """Record a complete checkpoint file in the manifest and rename it to its final name.

        Args:
            temporary: The file, made by :func:`jitflow.io.files.temporary_beside` in this folder.
            name: Its name.
            kind: Kind of checkpoint.
            step: Optimiser steps done.
            keep_previous: Keep the file that had the name before, as ``checkpoint-prev.pth``.

        Raises:
            OSError: If the disk is full or not writable; the previous file then keeps the name.
        """
        record = Record(kind, step, temporary.stat().st_size, file_checksum(temporary))
        records = self.records()
        before = [self._own[name]] if name in self._own else records.get(name, [])
        records[name] = [*before, record]
        keep_previous = keep_previous and (self.folder / name).is_file()
        if keep_previous:
            kept = [self._own[PREVIOUS_NAME]] if PREVIOUS_NAME in self._own else records.get(PREVIOUS_NAME, [])
            # A file without records must not be compared with another file's record.
            records[PREVIOUS_NAME] = [*kept, *before] if before else []
        self._write(records)
        if keep_previous and self._link(name) and len(before) == 1:
            self._own[PREVIOUS_NAME] = before[0]
        commit_file(temporary, self.folder / name)
        self._own[name] = record

    def remove(self, names: Iterable[str]) -> None:
        """Delete checkpoint files and their records."""
        records = self.records()
        for name in names:
            (self.folder / name).unlink(missing_ok=True)
            records.pop(name, None)
            self._own.pop(name, None)
        self._write(records)

    def names_of_kind(self, kind: str) -> list[str]:
        """Names of the checkpoint files of a kind, in the order of their steps."""
        newest = {name: found[-1] for name, found in self.records().items() if found and found[-1].kind == kind}
        return sorted(newest, key=lambda name: newest[name].step)

    def checkpoints(self) -> list[Path]:
        """All checkpoint files of the folder, intact or not, in no order.

        Raises:
            CheckpointError: If the folder exists but cannot be read, so that it is not taken for an empty one.
        """
        try:
            names = [path.name for path in self.folder.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise CheckpointError(
                f"the checkpoints in {self.folder} cannot be listed ({error.strerror}); make the folder readable, or "
                "choose another one"
            ) from None
        files = [self.folder / name for name in names if name.endswith((".pth", ".ckpt")) and not name.startswith(".")]
        return [file for file in files if not file.is_symlink()]

    def step_of(self, path: Path, records: dict[str, list[Record]]) -> int | None:
        """Return the optimiser steps of a checkpoint from its record; None without a matching record.

        Args:
            path: A file of this folder.
            records: Result of :meth:`records`.
        """
        found = records.get(path.name, [])
        if len(found) > 1:
            # A save was interrupted between manifest and file.
            found = [record for record in found if self._describes(record, path)]
        return found[-1].step if found else None

    def _describes(self, record: Record, path: Path) -> bool:
        """Whether a file has the record's size and checksum, which is computed again only for a changed file."""
        status = path.stat()
        if status.st_size != record.num_bytes:
            return False
        state = (path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if state not in self._checksums:
            self._checksums[state] = file_checksum(path)
        return self._checksums[state] == record.sha256

    def _write(self, records: dict[str, list[Record]]) -> None:
        files = {name: [asdict(record) for record in found] for name, found in records.items() if found}
        write_json(self.manifest, {"format": _FORMAT, "version": _VERSION, "files": files})

    def _link(self, name: str) -> bool:
        """Hard-link the previous file as ``checkpoint-prev.pth``; False if the file system has no hard links."""
        spare = temporary_beside(self.folder / PREVIOUS_NAME)
        spare.unlink()
        try:
            os.link(self.folder / name, spare)
        except OSError as error:
            log.info(
                "%s cannot hold a file under two names (%s), so the second-last checkpoint is not kept",
                self.folder,
                error,
            )
            return False
        spare.replace(self.folder / PREVIOUS_NAME)
        return True
