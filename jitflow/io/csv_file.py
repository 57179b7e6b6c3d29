"""Read CSV logs of training curves, up to the first line that is none, as after a crash."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path


def iter_csv_rows(path: str | Path, *, most_columns: int = 1000) -> Iterator[dict[str, str]]:
    """Read the rows of a CSV log of training curves.

    Args:
        path: The file, UTF-8; other bytes are replaced.
        most_columns: A log with more has no rows.

    Yields:
        The texts of a row by column; a row that breaks off has fewer. Nothing follows a line that is no CSV.

    Raises:
        OSError: If the file cannot be read.
    """
    with Path(path).open(newline="", encoding="utf-8", errors="replace") as lines:
        reader = csv.reader(lines)
        try:
            names = next(reader, [])
            if len(names) > most_columns:
                return
            for row in reader:
                if row:
                    yield dict(zip(names, row, strict=False))
        except csv.Error:
            return
