"""A folder of checkpoints and its manifest: size and checksum of every file, so that a damaged one is known."""

from __future__ import annotations

import logging
import os
import re
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jitflow.errors import ConfigError
from jitflow.io.files import file_checksum, read_json, settle, temporary_beside, write_json

log = logging.getLogger(__name__)

MANIFEST_NAME = "manifest.json"
LAST_NAME = "checkpoint-last.pth"
PREVIOUS_NAME = "checkpoint-prev.pth"
MILESTONE = "milestone"
_FORMAT, _VERSION = "jitflow checkpoints", 1
_DIGEST = re.compile(r"[0-9a-f]{64}")
# A manifest has a line or two for each file; anything larger is none of ours.
_MAX_MANIFEST_BYTES = 16_000_000


@dataclass(frozen=True)
class Record:
    """What is known of a checkpoint.

    Args:
        kind: What it was saved as, such as ``last`` or ``milestone``.
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
        """Read what :func:`dataclasses.asdict` wrote; raise ValueError if it is anything else."""
        if not isinstance(content, dict):
            raise ValueError("a record is no dictionary")
        record = cls(*(content.get(name) for name in ("kind", "step", "num_bytes", "sha256")))  # type: ignore[arg-type]
        numbers = (record.step, record.num_bytes)
        if not all(type(number) is int and number >= 0 for number in numbers) or not isinstance(record.kind, str):
            raise ValueError("a record holds no numbers")
        if not isinstance(record.sha256, str) or not _DIGEST.fullmatch(record.sha256):
            raise ValueError("a record holds no checksum")
        return record

    def describes(self, path: Path) -> bool:
        """Whether a file has this size and this checksum."""
        return path.stat().st_size == self.num_bytes and file_checksum(path) == self.sha256


class CheckpointFolder:
    """A folder into which checkpoints are put whole, each written down in ``manifest.json``.

    A name can have several records: a new file's is added before the file takes the name, so that whatever a crash
    leaves under the name is known. A folder without manifest, or with a damaged one, can be used all the same.

    Args:
        folder: The folder; it need not exist yet.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        # What this object put there itself, for which older records of the same name are out of date.
        self._own: dict[str, Record] = {}

    @property
    def manifest(self) -> Path:
        """Where the records are."""
        return self.folder / MANIFEST_NAME

    def records(self) -> dict[str, list[Record]]:
        """Read the records by file name; none if there is no manifest, with a warning if it is damaged."""
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
            # A record only ever speaks about a file beside it.
            return {
                name: [Record.from_json(entry) for entry in entries]
                for name, entries in files.items()
                if Path(name).name == name
            }
        except (ConfigError, ValueError) as error:
            log.warning("%s is damaged and left aside (%s); checkpoints are not compared with checksums", path, error)
            return {}

    def problem(self, path: Path, records: dict[str, list[Record]] | None = None) -> str | None:
        """Say what is wrong with a checkpoint.

        Args:
            path: A file of this folder.
            records: What :meth:`records` returned, not to read it again.

        Returns:
            What is wrong, in a few words; None if nothing is, as far as can be told.
        """
        found = (self.records() if records is None else records).get(path.name)
        if found:
            if any(record.describes(path) for record in found):
                return None
            sizes = {record.num_bytes for record in found}
            size = path.stat().st_size
            return "its checksum differs" if size in sizes else f"it has {size} bytes instead of {max(sizes)}"
        # A zip file that was cut short lacks the directory at its end.
        return None if zipfile.is_zipfile(path) else "it was cut short"

    def put(self, temporary: Path, name: str, *, kind: str, step: int, keep_previous: bool = False) -> None:
        """Give a whole file its name, written down before.

        Args:
            temporary: The file, made by :func:`jitflow.io.files.temporary_beside` in this folder.
            name: Its name.
            kind: What it is.
            step: Optimiser steps done.
            keep_previous: Keep the file that has had the name until now, as ``checkpoint-prev.pth``.

        Raises:
            OSError: If the disk is full or does not let us; what had the name before has it still.
        """
        record = Record(kind, step, temporary.stat().st_size, file_checksum(temporary))
        records = self.records()
        before = [self._own[name]] if name in self._own else records.get(name, [])
        records[name] = [*before, record]
        keep_previous = keep_previous and (self.folder / name).is_file()
        if keep_previous:
            kept = [self._own[PREVIOUS_NAME]] if PREVIOUS_NAME in self._own else records.get(PREVIOUS_NAME, [])
            # Without records of its own it was never written down, and must not be held against another's.
            records[PREVIOUS_NAME] = [*kept, *before] if before else []
        self._write(records)
        if keep_previous and self._link(name) and len(before) == 1:
            self._own[PREVIOUS_NAME] = before[0]
        settle(temporary, self.folder / name)
        self._own[name] = record

    def forget(self, names: Iterable[str]) -> None:
        """Delete checkpoints and their records."""
        records = self.records()
        for name in names:
            (self.folder / name).unlink(missing_ok=True)
            records.pop(name, None)
            self._own.pop(name, None)
        self._write(records)

    def names_of_kind(self, kind: str) -> list[str]:
        """Names of the files of a kind, in the order of their steps."""
        newest = {name: found[-1] for name, found in self.records().items() if found and found[-1].kind == kind}
        return sorted(newest, key=lambda name: newest[name].step)

    def checkpoints(self) -> list[Path]:
        """Every checkpoint that has a name, whole or not, in no order."""
        return [
            file
            for pattern in ("*.pth", "*.ckpt")
            for file in self.folder.glob(pattern)
            if not file.is_symlink() and not file.name.startswith(".")
        ]

    def step_of(self, path: Path, records: dict[str, list[Record]]) -> int | None:
        """Optimiser steps of a checkpoint as written down; None where nothing is, or nothing that fits.

        Args:
            path: A file of this folder.
            records: What :meth:`records` returned.
        """
        found = records.get(path.name, [])
        if len(found) > 1:
            # A save was cut off between the manifest and the file.
            found = [record for record in found if record.describes(path)]
        return found[-1].step if found else None

    def _write(self, records: dict[str, list[Record]]) -> None:
        files = {name: [asdict(record) for record in found] for name, found in records.items() if found}
        write_json(self.manifest, {"format": _FORMAT, "version": _VERSION, "files": files})

    def _link(self, name: str) -> bool:
        """Let the previous file also be called ``checkpoint-prev.pth``; False where files cannot have two names."""
        spare = temporary_beside(self.folder / PREVIOUS_NAME)
        spare.unlink()
        try:
            os.link(self.folder / name, spare)
        except OSError as error:
            log.info("%s cannot hold a file under two names (%s), so the last but one is not kept", self.folder, error)
            return False
        spare.replace(self.folder / PREVIOUS_NAME)
        return True
