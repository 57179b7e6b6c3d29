"""Manifest records of shards, and their verification."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jitflow.errors import DataError
from jitflow.io.files import file_checksum

MANIFEST = "manifest.json"
"""Manifest file of a prepared data set."""
UNFINISHED = ".unfinished"
"""Sub-folder for files that are only needed until the manifest is written."""
FORMAT = "jitflow image shards"
VERSION = 1
PREPARE_AGAIN = "run the same `jitflow data prepare` again"
"""Advice for missing and damaged shards."""


@dataclass(frozen=True)
class ShardRecord:
    """Manifest record of a shard.

    Args:
        file: Its name.
        num_images: Images in it.
        num_bytes: Size of the file.
        sha256: Checksum of the file.
        skipped: Skipped source files, each with ``file``, ``label`` and ``reason``.
    """

    file: str
    num_images: int
    num_bytes: int
    sha256: str
    skipped: tuple[dict[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return {**asdict(self), "skipped": list(self.skipped)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> ShardRecord:
        """Build a shard record from the result of :meth:`as_dict`."""
        record = cls(**{**content, "skipped": tuple(content["skipped"])})
        if not isinstance(record.file, str) or Path(record.file).name != record.file or record.file in (".", ".."):
            raise ValueError(f"a shard must lie in the folder itself; got {record.file!r}")
        return record

    def lies_in(self, folder: Path) -> bool:
        """Whether the shard exists at its full size."""
        path = folder / self.file
        return path.is_file() and path.stat().st_size == self.num_bytes


def check_size(folder: Path, record: ShardRecord) -> None:
    """Raise DataError, naming the shard, if it is missing or has another size."""
    path = folder / record.file
    if not path.is_file():
        raise DataError(f"{path} is missing; {PREPARE_AGAIN}")
    size = path.stat().st_size
    if size != record.num_bytes:
        raise DataError(f"{path} should have {record.num_bytes} bytes and has {size}; {PREPARE_AGAIN}")


def verify_shard(folder: Path, record: ShardRecord, on_shard: Callable[[], None]) -> str | None:
    """Verify the checksum of a shard.

    Args:
        folder: Folder of the shard.
        record: Its manifest record.
        on_shard: Called when it is done.

    Returns:
        The problem, in one line that names the shard; None if there is none.
    """
    problem = None
    try:
        check_size(folder, record)
        if file_checksum(folder / record.file) != record.sha256:
            problem = f"{folder / record.file} is damaged (its checksum differs); remove it and {PREPARE_AGAIN}"
    except DataError as error:
        problem = str(error)
    on_shard()
    return problem
