"""The folder of extracted latents: names of its files, and the record that says which inputs they were made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jitflow.apps.microdoppler.data import DONE_NAME, LINEAR_CODEC_NAME
from jitflow.errors import ConfigError
from jitflow.io.array_file import part_path
from jitflow.io.files import read_json, writable_folder, write_json

STATISTICS_NAME = "latents_stats.pt"
RECONSTRUCTION_NAME = "reconstruction.png"
SPLITS = ("train", "val")
_PROGRESS_NAME = "extraction.progress.json"


@dataclass(frozen=True)
class ExtractionFolder:
    """A folder of latents, and the inputs that they are made from.

    Attributes:
        path: The folder.
        settings: What the latents depend on: fingerprint of the pictures, codec, size, seed. Results of different
            settings never mix.
    """

    path: Path
    settings: Mapping[str, Any]

    def latents(self, split: str) -> Path:
        """Path of a file of latents.

        Args:
            split: ``"train"`` or ``"val"``.
        """
        return self.path / f"{split}.safetensors"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings, which names the data set of latents."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def is_finished(self, *, overwrite: bool) -> bool:
        """Whether all results of these settings are there; what is left of others or damaged is removed.

        Args:
            overwrite: Remove whatever the folder holds.

        Raises:
            ConfigError: If the folder holds results of other inputs, or files that nobody recorded.
        """
        done, progress = self.path / DONE_NAME, self.path / _PROGRESS_NAME
        record = done if done.exists() else progress
        if overwrite:
            self._remove_results()
        elif record.exists():
            content = read_json(record)
            recorded = content.get("settings", {}) if isinstance(content, dict) else {}
            differing = [name for name in self.settings if recorded.get(name, "") != self.settings[name]]
            if differing:
                raise ConfigError(
                    f"{self.path} holds latents of other inputs ({', '.join(differing)}); name another folder or pass "
                    "--overwrite"
                )
            if record == done and all(self.latents(split).exists() for split in SPLITS):
                return True
            if record == done:
                self._remove_results()
        else:
            unrecorded = [path.name for path in self._results() if path.exists()]
            if unrecorded:
                raise ConfigError(
                    f"{self.path} holds {', '.join(unrecorded)} that this command did not make; name another folder or "
                    "pass --overwrite"
                )
        return False

    def begin(self) -> None:
        """Make the folder and record the settings, before any other file: an interrupted call can be resumed."""
        writable_folder(self.path)
        if not (self.path / _PROGRESS_NAME).exists():
            self.record({})

    def record(self, rows: Mapping[str, Any]) -> None:
        """Write down which rows of the latents are done.

        Args:
            rows: For each split, intervals of rows as (first, after the last).
        """
        write_json(self.path / _PROGRESS_NAME, {"settings": self.settings, "done": rows})

    def recorded_rows(self) -> dict[str, list[list[int]]]:
        """Read which rows an interrupted call has finished, as :meth:`record` wrote them."""
        path = self.path / _PROGRESS_NAME
        rows: dict[str, list[list[int]]] = read_json(path).get("done", {}) if path.exists() else {}
        return rows

    def conclude(self, report: Mapping[str, Any]) -> None:
        """Write the final record, which says that all results are there.

        Args:
            report: Its content.
        """
        write_json(self.path / DONE_NAME, report)
        (self.path / _PROGRESS_NAME).unlink(missing_ok=True)

    def _results(self) -> list[Path]:
        files = [self.latents(split) for split in SPLITS]
        names = (STATISTICS_NAME, LINEAR_CODEC_NAME, RECONSTRUCTION_NAME)
        return [*files, *map(part_path, files), *(self.path / name for name in names)]

    def _remove_results(self) -> None:
        # The records last: if this is interrupted, the next call still knows what the files were made from.
        for path in (*self._results(), self.path / DONE_NAME, self.path / _PROGRESS_NAME):
            path.unlink(missing_ok=True)
