"""Store a corpus as token ids in one file, written as a stream and memory-mapped."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from jitflow.apps.text.files import Piece
from jitflow.core.seeding import mix_seeds
from jitflow.errors import DataError
from jitflow.io.array_file import ArrayFileWriter, open_arrays
from jitflow.io.files import writable_folder

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the amount of the source read so far and its total size."""

# Part of the file name; raise it when the content for the same source changes.
_FORMAT = 1
_COPY = 1 << 22
# Held-out documents are drawn at random; a share off by more than this factor means few or very uneven documents.
_TOLERANCE = 3
_MIN_HELD_OUT = 256


class TextEncoder(Protocol):
    """Tokenizer interface that the data module needs."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special ones included."""
        ...

    @property
    def end_id(self) -> int:
        """Id of the token that ends a document."""
        ...

    @property
    def pad_id(self) -> int:
        """Id of the padding token."""
        ...

    @property
    def fingerprint(self) -> str:
        """Checksum that is equal for tokenizers that give equal ids."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        ...


class TextSource(Protocol):
    """Source of documents for the token store."""

    @property
    def size(self) -> int:
        """Size, in the unit of its pieces' positions."""
        ...

    def fingerprint(self) -> str:
        """Return a checksum that changes when the text does."""
        ...

    def pieces(self) -> Iterator[Piece]:
        """Read all documents."""
        ...


class TextList:
    """Documents held in memory.

    Args:
        documents: Their texts.
    """

    def __init__(self, documents: list[str]) -> None:
        self.documents = documents
        self.size = sum(map(len, documents))

    def fingerprint(self) -> str:
        """Return a SHA-256 of the texts."""
        digest = hashlib.sha256()
        for text in self.documents:
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()

    def pieces(self) -> Iterator[Piece]:
        """Yield the documents."""
        position = 0
        for text in self.documents:
            position += len(text)
            yield Piece(text, True, position)


@dataclass(frozen=True)
class TokenStream:
    """Concatenated tokens of documents, each followed by the end token.

    Attributes:
        ids: Token ids, shape ``(T,)``.
        ends: End index of each document, shape ``(D,)``, int64; the last is ``T``.
    """

    ids: np.ndarray
    ends: np.ndarray

    @property
    def num_tokens(self) -> int:
        """Number of tokens, end tokens included."""
        return len(self.ids)

    @property
    def num_documents(self) -> int:
        """Documents."""
        return len(self.ends)


def store_name(source: TextSource, tokenizer: TextEncoder, val_fraction: float) -> str:
    """Return the file name of a token store: a checksum of everything its content depends on."""
    settings = repr((_FORMAT, source.fingerprint(), tokenizer.fingerprint, tokenizer.end_id, float(val_fraction)))
    return f"tokens-{hashlib.sha256(settings.encode()).hexdigest()[:24]}.safetensors"


def write_tokens(
    path: str | Path,
    source: TextSource,
    tokenizer: TextEncoder,
    *,
    val_fraction: float = 0.0,
    progress: Progress | None = None,
) -> None:
    """Tokenise a corpus into a file, with constant memory.

    Documents are held out by a hash of their beginning, so that copies of a document get the same split. If the
    resulting share is far from ``val_fraction`` (few or very uneven documents), the end of the corpus is held out
    instead, or nothing if that would be less than 256 tokens.

    Args:
        path: The file, which is written atomically.
        source: The documents.
        tokenizer: The tokenizer.
        val_fraction: Share of the corpus to hold out, in ``[0, 1)``.
        progress: Called after each piece.

    Raises:
        ConfigError: If the disk has no space for the file.
        DataError: If there is no text, or the tokenizer gives an id out of range.
    """
    path = Path(path)
    folder = writable_folder(path.parent)
    # A separate folder, so that two runs writing the same file do not collide before it is complete.
    with tempfile.TemporaryDirectory(prefix=".tokens-", dir=folder) as work:
        train, val = _Part(work, tokenizer), _Part(work, tokenizer)
        part = None
        for piece in source.pieces():
            if piece.starts or part is None:
                if part is not None:
                    part.end_document()
                part = val if _hash_to_unit(piece.text) < val_fraction else train
            part.append(piece.text)
            if progress is not None:
                progress(piece.position, source.size)
        if part is None:
            raise DataError("there is no text to make tokens of")
        part.end_document()
        writer = _writer(Path(work) / path.name, train, val, val_fraction)
        writer.finish().replace(path)


def open_tokens(path: str | Path) -> tuple[TokenStream, TokenStream]:
    """Memory-map a token file written by :func:`write_tokens`.

    Args:
        path: The file.

    Returns:
        The training and the held-out stream, which can be empty.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it is damaged.
    """
    arrays, _ = open_arrays(path)
    missing = [name for name in ("ids", "ends", "num_train") if name not in arrays]
    if missing:
        raise DataError(f"{path} holds no tokens (no array {missing[0]!r}); remove it")
    ids, ends, num_train = arrays["ids"], arrays["ends"], arrays["num_train"]
    for name, values in (("ids", ids), ("ends", ends), ("num_train", num_train)):
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
            shape = "x".join(map(str, values.shape))
            raise DataError(f"{path} is damaged: {name} must be a row of whole numbers, not {shape} {values.dtype}")
    cut = int(num_train[0]) if len(num_train) == 1 else -1
    if not 0 <= cut <= len(ids):
        raise DataError(f"{path} is damaged: num_train must lie in [0, {len(ids)}]; remove it")
    if len(ids) and (not len(ends) or ends[-1] != len(ids) or ends[0] < 0 or not (ends[1:] >= ends[:-1]).all()):
        raise DataError(f"{path} is damaged: its documents do not end in order; remove it")
    num_documents = int(np.searchsorted(ends, cut, side="right"))
    return TokenStream(ids[:cut], ends[:num_documents]), TokenStream(ids[cut:], ends[num_documents:] - cut)


class _Part:
    """Tokens of one split, in an anonymous temporary file."""

    def __init__(self, folder: str, tokenizer: TextEncoder) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._tokenizer = tokenizer
        # Not all readers of safetensors support unsigned 16-bit integers.
        self.dtype = np.dtype(np.int16 if tokenizer.vocab_size <= 1 << 15 else np.int32)
        self.ends = array("q")
        self.num_tokens = 0

    def append(self, text: str) -> None:
        self._write(self._tokenizer.encode(text))

    def end_document(self) -> None:
        self._write([self._tokenizer.end_id])
        self.ends.append(self.num_tokens)

    def copy_to(self, place: np.ndarray) -> None:
        self._file.seek(0)
        for start in range(0, self.num_tokens, _COPY):
            count = min(_COPY, self.num_tokens - start)
            place[start : start + count] = np.frombuffer(self._file.read(count * self.dtype.itemsize), self.dtype)

    def _write(self, ids: list[int]) -> None:
        if ids and not 0 <= min(ids) <= max(ids) < self._tokenizer.vocab_size:
            raise DataError(
                f"the tokenizer gave the ids {min(ids)} to {max(ids)}; its vocabulary is {self._tokenizer.vocab_size}"
            )
        self._file.write(np.array(ids, self.dtype).tobytes())
        self.num_tokens += len(ids)


def _writer(path: Path, train: _Part, val: _Part, val_fraction: float) -> ArrayFileWriter:
    """Create the writer of a file with both splits, the held-out one last."""
    total = train.num_tokens + val.num_tokens
    ends = np.concatenate([np.array(train.ends, np.int64), np.array(val.ends, np.int64) + train.num_tokens])
    cut = train.num_tokens
    as_asked = val_fraction / _TOLERANCE <= val.num_tokens / total <= val_fraction * _TOLERANCE
    if not as_asked or not train.num_tokens:
        tail = round(total * val_fraction)
        cut = total - tail if tail >= _MIN_HELD_OUT else total
        if cut not in ends:
            ends = np.insert(ends, np.searchsorted(ends, cut), cut)
        if cut < total:
            _log.info("few or uneven documents: the last %d of %d tokens are held out", tail, total)
    layout = {
        "ids": ((total,), train.dtype.name),
        "ends": (ends.shape, "int64"),
        "num_train": ((1,), "int64"),
    }
    writer = ArrayFileWriter.create(path, layout)
    train.copy_to(writer.arrays["ids"][: train.num_tokens])
    val.copy_to(writer.arrays["ids"][train.num_tokens :])
    writer.arrays["ends"][:] = ends
    writer.arrays["num_train"][:] = cut
    return writer


def _hash_to_unit(text: str) -> float:
    """Hash the beginning of a document to a number in [0, 1)."""
    digest = hashlib.sha256(text[:4096].encode("utf-8", "surrogatepass")).digest()
    return mix_seeds(int.from_bytes(digest[:8], "little")) / 2**63
