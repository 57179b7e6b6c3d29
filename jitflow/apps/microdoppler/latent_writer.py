"""Writer of the two files of latents, which knows the rows that are done and resumes an interrupted extraction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jitflow.apps.microdoppler.extraction_folder import SPLITS, ExtractionFolder
from jitflow.apps.microdoppler.latent_file import CONDITIONS
from jitflow.apps.microdoppler.user_images import UserImages
from jitflow.core.condition_table import ConditionTable
from jitflow.io.array_file import ArrayFileWriter, open_arrays, part_path


@dataclass
class LatentWriter:
    """Writer of training and validation latents, row by row in any order.

    Attributes:
        folder: Where they are.
        writers: Writer of the file of each split; a finished file has none.
        filled: By split, which rows are done, shape ``(N,)``, bool.
        conditions: Named conditions of the pictures; None for none.
    """

    folder: ExtractionFolder
    writers: dict[str, ArrayFileWriter]
    filled: dict[str, np.ndarray]
    conditions: ConditionTable | None = None

    @classmethod
    def open(cls, folder: ExtractionFolder, images: UserImages, latent_shape: Sequence[int]) -> LatentWriter:
        """Create the files, or go on with those of an interrupted call.

        Args:
            folder: Where they are.
            images: Pictures of the rows.
            latent_shape: Shape of one latent, ``(Z, h, w)``.
        """
        recorded = folder.recorded_rows()
        writers: dict[str, ArrayFileWriter] = {}
        filled: dict[str, np.ndarray] = {}
        for split in SPLITS:
            path, rows = folder.latents(split), images.of_split(split)
            filled[split] = np.full(len(rows), path.exists())
            if path.exists():
                continue
            arrays = {
                "latents": ((len(rows), *latent_shape), "float32"),
                "labels": ((len(rows),), "int64"),
                "user_ids": ((len(rows),), "int64"),
            }
            if images.conditions is not None:
                arrays[CONDITIONS] = ((len(rows), len(images.conditions)), "float32")
            if part_path(path).exists() and split in recorded:
                writers[split] = ArrayFileWriter.reopen(path, arrays)
                for start, stop in recorded[split]:
                    filled[split][start:stop] = True
            else:
                writers[split] = ArrayFileWriter.create(path, arrays)
                writers[split].arrays["labels"][:] = [image.label for image in rows]
                writers[split].arrays["user_ids"][:] = [image.user_id for image in rows]
                if images.conditions is not None:
                    writers[split].arrays[CONDITIONS][:] = images.condition_codes(split)
        return cls(folder, writers, filled, images.conditions)

    @property
    def num_rows(self) -> int:
        """Rows of both files."""
        return sum(map(len, self.filled.values()))

    @property
    def num_filled(self) -> int:
        """Rows of both files that are done."""
        return sum(int(rows.sum()) for rows in self.filled.values())

    def missing(self, batch_size: int) -> Iterator[tuple[str, int, int]]:
        """List the batches that lack a row: split, first row, and the row after the last.

        Batches begin at multiples of their size, so that a row is always encoded among the same neighbours.

        Args:
            batch_size: Rows of a batch.
        """
        for split, rows in self.filled.items():
            for start in range(0, len(rows), batch_size):
                if not rows[start : start + batch_size].all():
                    yield split, start, min(start + batch_size, len(rows))

    def record(self) -> None:
        """Write down which rows are done."""
        # Rows first: what the record claims is on the disk, even if the machine stops now.
        for writer in self.writers.values():
            writer.flush()
        self.folder.record({split: _intervals(rows) for split, rows in self.filled.items()})

    def train_latents(self) -> np.ndarray:
        """Return the latents of the training pictures, shape ``(N, Z, h, w)``, mapped from their file."""
        writer = self.writers.get("train")
        return (open_arrays(self.folder.latents("train"))[0] if writer is None else writer.arrays)["latents"]

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Give the files their final names.

        Args:
            metadata: Header of both.
        """
        for writer in self.writers.values():
            writer.finish(metadata)


def _intervals(rows: np.ndarray) -> list[list[int]]:
    """Find the runs of true values, as (first, after the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], rows, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2).tolist()
