"""Stream documents from .txt, .json and .jsonl files of any size.

- ``.txt``: the file is one document.
- ``.json``: a list of strings or objects; read item by item.
- ``.jsonl``: a string or an object on each line.

An object has ``text``, or ``prompt`` and ``answer``, which are joined by a line break.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from jitflow.apps.text.encoding import detect_encoding
from jitflow.apps.text.json_stream import iter_json_values
from jitflow.errors import ConfigError, DataError, MissingFileError
from jitflow.io.file_tree import list_tree
from jitflow.io.files import user_path
from jitflow.io.json_text import parse_json

_log = logging.getLogger(__name__)

# Documented default folder of text; the built-in corpus replaces it if missing.
DEFAULT_DATA_PATH = Path("data/train")
SUFFIXES = (".txt", ".json", ".jsonl")
# Characters of a document in memory at once.
PIECE = 1 << 18
# Distance from its end within which a piece is searched for a blank to split at; some scripts have none.
_SEARCH = 1 << 12
_NUM_NAMED = 5


@dataclass(frozen=True)
class Piece:
    """A document, or a part of a long one.

    Attributes:
        text: Its characters.
        starts: Whether a new document begins with this piece.
        position: Amount of the source read so far, in the unit of its ``size``.
    """

    text: str
    starts: bool
    position: int


class TextFiles:
    """The documents of a file, or of all files of a folder and its sub-folders, in the order of their names.

    Args:
        path: A file or a folder.
        encoding: Encoding of the files; None detects it for each file.

    Attributes:
        files: The files that are read.
        size: Their size in bytes.
        num_documents: Documents of the last read.
        num_bad: Records of the last read without text.
        bad: The first of these records, as ``file:line: reason``.

    Raises:
        MissingFileError: If the path does not exist.
        ConfigError: If the encoding is unknown.
        DataError: If the file is of an unknown type, or the folder has none of a known one.
    """

    def __init__(self, path: str | Path, *, encoding: str | None = None) -> None:
        self.path = user_path(path)
        self.encoding = encoding
        if encoding is not None:
            try:
                "a".encode(encoding)
            except LookupError:
                raise ConfigError(f"encoding {encoding!r} is unknown; known are utf-8, cp1252, gb18030, ...") from None
        self.files = self._find()
        self.size = sum(file.stat().st_size for file in self.files)
        self._doubts: dict[Path, str] = {}
        self._encodings: dict[Path, str] = {}
        self._start_counting()

    def fingerprint(self) -> str:
        """Return the SHA-256 of the files' names, sizes and times, which changes when their content does."""
        digest = hashlib.sha256(repr(self.encoding).encode())
        for file in self.files:
            state = file.stat()
            digest.update(repr((self._name(file), state.st_size, state.st_mtime_ns)).encode())
        return digest.hexdigest()

    def pieces(self) -> Iterator[Piece]:
        """Read all documents in pieces.

        Yields:
            The pieces; blank documents are skipped, and line ends become line feeds.

        Raises:
            DataError: If a ``.json`` file is damaged, or at the end if there was no document.
        """
        self._start_counting()
        done = 0
        for file in self.files:
            with file.open("rb") as raw:
                for starts, text in self._documents(file, raw):
                    self.num_documents += starts
                    yield Piece(text, starts, done + raw.tell())
            done += file.stat().st_size
        self._warn_of_bad_files()
        if not self.num_documents:
            detail = f" ({self.num_bad} unusable records, such as {self.bad[0]})" if self.bad else ""
            raise DataError(f"there is no text in {self.path}{detail}; {_FORMS}")

    def texts(self) -> Iterator[str]:
        """Yield the text of all pieces, for training a tokenizer."""
        return (piece.text for piece in self.pieces())

    def _find(self) -> list[Path]:
        if self.path.is_file():
            if self.path.suffix.lower() not in SUFFIXES:
                raise DataError(f"{self.path} is of an unknown type; {_FORMS}")
            return [self.path]
        if not self.path.is_dir():
            raise MissingFileError(f"data_path {self.path} does not exist; name a file or a folder of text")
        tree = list_tree(self.path)
        tree.log_left_out(SUFFIXES)
        found = tree.files()
        known = [file for file in found if file.suffix.lower() in SUFFIXES]
        unknown = [self._name(file) for file in found if file.suffix.lower() not in SUFFIXES]
        if not known:
            content = f"has only files of unknown types ({_first(unknown)})" if unknown else "is empty"
            raise DataError(f"{self.path} {content}; {_FORMS}")
        if unknown:
            _log.warning("%d files in %s are of unknown types and left out: %s", *_counted(unknown, self.path))
        return known

    def _name(self, file: Path) -> str:
        return file.name if file == self.path else file.relative_to(self.path).as_posix()

    def _start_counting(self) -> None:
        self.num_documents = 0
        self.num_bad = 0
        self.bad: list[str] = []

    def _documents(self, file: Path, raw: BinaryIO) -> Iterator[tuple[bool, str]]:
        """Yield the pieces of a file's documents: whether a document starts, and the text."""
        stream = io.TextIOWrapper(raw, encoding=self._encoding_of(file), errors="replace")
        try:
            if file.suffix.lower() == ".txt":
                yield from _skip_leading_blanks(split_text(stream))
                return
            lines = file.suffix.lower() == ".jsonl"
            values = _parse_lines(stream) if lines else enumerate(iter_json_values(stream, str(file)), start=1)
            for number, value in values:
                try:
                    text = document_text(value)
                except ValueError as error:
                    self._record_bad(f"{self._name(file)}:{number if lines else f' item {number}'}: {error}")
                else:
                    yield from _skip_leading_blanks(split_text(io.StringIO(text)))
        except UnicodeError as error:
            # UTF-16 and similar encodings can fail even with replacement, if the byte-order mark is missing.
            raise DataError(f"{file} cannot be decoded ({error}); give its encoding") from None
        finally:
            # The wrapper would close the file, whose position is still needed.
            stream.detach()

    def _encoding_of(self, file: Path) -> str:
        if self.encoding is not None:
            return self.encoding
        if file not in self._encodings:
            found = detect_encoding(file)
            self._encodings[file] = found.name
            if found.doubt:
                self._doubts[file] = found.doubt
        return self._encodings[file]

    def _record_bad(self, reason: str) -> None:
        self.num_bad += 1
        if len(self.bad) < _NUM_NAMED:
            self.bad.append(reason)

    def _warn_of_bad_files(self) -> None:
        if self._doubts:
            doubts = [f"{self._name(file)} ({doubt})" for file, doubt in self._doubts.items()]
            _log.warning("%d files in %s may be in another encoding: %s; give encoding", *_counted(doubts, self.path))
            self._doubts = {}  # warn once; a corpus is read twice when a tokenizer is trained
        if self.num_bad:
            more = ", ..." if self.num_bad > len(self.bad) else ""
            _log.warning("%d records of %s left out: %s%s", self.num_bad, self.path, ", ".join(self.bad), more)


_FORMS = (
    "known are .txt, .json (a list) and .jsonl (a record per line), with strings or objects that hold text, or prompt "
    "and answer"
)


def document_text(value: Any) -> str:
    """Return the text of one JSON record.

    Args:
        value: A string, or an object with ``text``, or ``prompt`` and ``answer``, which are joined by a line break.

    Returns:
        The text.

    Raises:
        ValueError: If it holds none; says why.
    """
    if isinstance(value, _Unreadable):
        raise ValueError(value.reason)
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"a {_KINDS.get(type(value), 'number')} instead of a string or an object")
    keys = ("text",) if "text" in value else ("prompt", "answer")
    for key in keys:
        if not isinstance(value.get(key), str):
            raise ValueError(f"{key} is no string" if key in value else "neither text nor prompt and answer")
    return "\n".join(value[key] for key in keys)


_KINDS = {list: "list", type(None): "null", bool: "boolean"}


def split_text(stream: io.TextIOBase, size: int = PIECE) -> Iterator[str]:
    """Read a text in pieces, split before blanks if possible, so that no word is broken.

    Args:
        stream: The text stream.
        size: Largest number of characters in a piece.

    Yields:
        The pieces; joined, they give the text.
    """
    text = ""
    while block := stream.read(size - len(text)):
        text += block
        if len(text) == size:
            cut = _find_split(text)
            yield text[:cut]
            text = text[cut:]
    if text:
        yield text


@dataclass(frozen=True)
class _Unreadable:
    reason: str


def _parse_lines(stream: io.TextIOWrapper) -> Iterator[tuple[int, Any]]:
    """Yield the number and the JSON value of each non-blank line."""
    number = 0
    # Not the stream's iterator, which disables ``tell``.
    while line := stream.readline():
        number += 1
        if line.isspace():
            continue
        try:
            yield number, parse_json(line)
        except ValueError as error:
            yield number, _Unreadable(f"no JSON ({error})")


def _skip_leading_blanks(pieces: Iterator[str]) -> Iterator[tuple[bool, str]]:
    """Yield the pieces of a document, the first marked as its start; leading blank pieces are skipped."""
    started = False
    for piece in pieces:
        if started or not piece.isspace():
            yield not started, piece
            started = True


def _find_split(text: str) -> int:
    """Return the start of the last run of blanks; the end of the text if none is near."""
    end = len(text)
    split_at, least = end, max(0, end - _SEARCH)
    while split_at > least and not text[split_at - 1].isspace():
        split_at -= 1
    while split_at > least and text[split_at - 1].isspace():
        split_at -= 1
    return split_at if split_at > least else end


def _counted(names: list[str], path: Path) -> tuple[int, Path, str]:
    return len(names), path, _first(names)


def _first(names: list[str]) -> str:
    return ", ".join(names[:_NUM_NAMED]) + (", ..." if len(names) > _NUM_NAMED else "")
