"""Read a table from a CSV or Parquet file, such as the manifest of a data set, as columns of text."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

from jitflow.errors import DataError, optional_package
from jitflow.io.files import existing_file
from jitflow.io.mistaken_file import unreadable

TABLE_SUFFIXES = (".csv", ".parquet")
_DELIMITERS = ",;\t"
# A Parquet file of a few bytes can declare any number of equal rows, and each of its columns again.
_MOST_ROWS = 2_000_000
_MOST_CELLS = 5_000_000


def read_table(path: str | Path, *, what: str = "table") -> dict[str, list[str]]:
    """Read the columns of a manifest or other table.

    Args:
        path: A ``.csv`` in UTF-8 (separated by commas, semicolons or tabs, names in its first line) or ``.parquet``.
        what: What the file is, for messages.

    Returns:
        Texts of each column by name, all of the same length; empty where a cell is. Whole numbers have no decimals.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it is damaged, has no rows, a row of another length, or a column twice.
        ConfigError: If it is a Parquet file and pyarrow is not installed.
    """
    path = existing_file(path, what=what)
    names, rows = _read_csv(path, what) if path.suffix.lower() == ".csv" else _read_parquet(path, what)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{what} {path} has the column {twice[0]!r} twice; remove one")
    if not rows:
        raise DataError(f"{what} {path} has no rows; list a file in each")
    if len(rows) > _MOST_ROWS:
        raise DataError(f"{what} {path} has {len(rows)} rows; at most {_MOST_ROWS} are read")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _read_csv(path: Path, what: str) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(_DELIMITERS, key=first.count))
            names = [name.strip() for name in next(reader, [])]
            rows = []
            for row in reader:
                if not row:
                    continue
                if len(row) != len(names):
                    raise DataError(
                        f"{what} {path}, line {reader.line_num}: {len(row)} cells under {len(names)} names; correct it"
                    )
                rows.append([cell.strip() for cell in row])
            return names, rows
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{what} {unreadable(path, f'no CSV in UTF-8 ({error})')}") from None


def _read_parquet(path: Path, what: str) -> tuple[list[str], list[list[str]]]:
    with optional_package("pyarrow", missing="Parquet files need pyarrow; run `pip install 'jitflow[radar]'`"):
        import pyarrow
        from pyarrow import parquet
    try:
        with parquet.ParquetFile(path) as file:
            if file.metadata.num_rows > _MOST_ROWS:
                raise DataError(f"{what} {path} has {file.metadata.num_rows} rows; at most {_MOST_ROWS} are read")
            flat = [field for field in file.schema_arrow if not pyarrow.types.is_nested(field.type)]
            num_cells = file.metadata.num_rows * len(flat)
            if num_cells > _MOST_CELLS + path.stat().st_size:
                raise DataError(f"{what} {path} has {num_cells} cells, too many for its size; leave out columns")
        # Long texts are read once each, however many rows name them.
        texts = [field.name for field in flat if not pyarrow.types.is_primitive(field.type)]
        with parquet.ParquetFile(path, read_dictionary=texts) as file:
            table = file.read(columns=[field.name for field in flat])
        # Arrow reads a damaged file's places in a dictionary without comparing them with it.
        table.validate(full=True)
        columns = [_column_texts(table.column(i)) for i in range(table.num_columns)]
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, DataError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{what} {unreadable(path, f'no Parquet file ({reason})')}") from None
    return table.column_names, [list(row) for row in zip(*columns, strict=True)]


def _column_texts(column: Any) -> list[str]:
    """Return the texts of a column of a Parquet file; equal cells share one."""
    encoded = column.dictionary_encode().combine_chunks()
    known = [_text(value) for value in encoded.dictionary.to_pylist()]
    return ["" if place is None else known[place] for place in encoded.indices.to_pylist()]


def _text(value: Any) -> str:
    """Return the text of a cell; a table with gaps stores whole numbers as floats."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
