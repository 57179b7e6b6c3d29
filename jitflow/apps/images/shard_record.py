"""What is written down about a shard, and whether the file still agrees with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jitflow.errors import DataError
from jitflow.io.files import file_checksum

MANIFEST = "manifest.json"
"""The file that makes a folder a prepared data set."""
UNFINISHED = ".unfinished"
"""Folder, in that of the shards, of what is only needed until the manifest is written."""
FORMAT = "jitflow image shards"
VERSION = 1
PREPARE_AGAIN = "run the same `jitflow data prepare` again"
"""The way out of missing and damaged shards."""


@dataclass(frozen=True)
class ShardRecord:
    """What the manifest says about a shard.

    Args:
        file: Its name.
        num_images: Images in it.
        num_bytes: Size of the file.
        sha256: Checksum of the file.
        skipped: Source files that were left out, each with ``file``, ``label`` and ``reason``.
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
        """Make a record of what :meth:`as_dict` returned."""
        record = cls(**{**content, "skipped": tuple(content["skipped"])})
        if not isinstance(record.file, str) or Path(record.file).name != record.file or record.file in (".", ".."):
            raise ValueError(f"a shard must lie in the folder itself; got {record.file!r}")
        return record

    def lies_in(self, folder: Path) -> bool:
        """Whether the shard is there with its full size."""
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
    """Compare a shard with its checksum.

    Args:
        folder: Where it is.
        record: What the manifest says about it.
        on_shard: Called when it is done.

    Returns:
        What is wrong, in one line that names the shard; None if nothing is.
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
