"""A corpus as token ids in one file, written as a stream and mapped into memory."""

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
"""Called with how much of the source was read, and how much there is."""

# Part of the name of a file; to be raised when the content for the same source changes.
_FORMAT = 1
_COPY = 1 << 22
# By document, the share held out is a matter of chance; beyond this factor it is one of few or very uneven documents.
_TOLERANCE = 3
_MIN_HELD_OUT = 256


class TextEncoder(Protocol):
    """What the data need of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included."""
        ...

    @property
    def end_id(self) -> int:
        """Id that marks the end of a document."""
        ...

    @property
    def pad_id(self) -> int:
        """Id that fills up a window."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal for tokenizers that give equal ids."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ...


class TextSource(Protocol):
    """Where documents come from."""

    @property
    def size(self) -> int:
        """Size in the unit of the positions of its pieces."""
        ...

    def fingerprint(self) -> str:
        """Return a word that changes when the text does."""
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
    """Documents one after another, each with the end token behind it.

    Attributes:
        ids: Token ids, shape ``(T,)``.
        ends: Where each document ends, shape ``(D,)``, int64; the last is ``T``.
    """

    ids: np.ndarray
    ends: np.ndarray

    @property
    def num_tokens(self) -> int:
        """Tokens, ends included."""
        return len(self.ids)

    @property
    def num_documents(self) -> int:
        """Documents."""
        return len(self.ends)


def store_name(source: TextSource, tokenizer: TextEncoder, val_fraction: float) -> str:
    """Name a file after all that its content depends on."""
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
    """Tokenise a corpus into a file, in memory that does not grow with it.

    Documents are held out by a hash of their beginning, so that copies of a document fall on the same side. Where
    that leaves a share far from the one asked for (few or very uneven documents), the end of the corpus is held out
    instead, and where that were less than 256 tokens, nothing.

    Args:
        path: The file; it gets its name when it is whole.
        source: The documents.
        tokenizer: Gives the ids.
        val_fraction: Share of the corpus to hold out, in ``[0, 1)``.
        progress: Called after each piece.

    Raises:
        ConfigError: If there is no room for the file.
        DataError: If there is no text, or the tokenizer gives an id out of range.
    """
    path = Path(path)
    folder = writable_folder(path.parent)
    # A folder of its own, so that two runs that write the same file do not meet before it is whole.
    with tempfile.TemporaryDirectory(prefix=".tokens-", dir=folder) as work:
        train, val = _Part(work, tokenizer), _Part(work, tokenizer)
        part = None
        for piece in source.pieces():
            if piece.starts or part is None:
                if part is not None:
                    part.end_document()
                part = val if _draw(piece.text) < val_fraction else train
            part.append(piece.text)
            if progress is not None:
                progress(piece.position, source.size)
        if part is None:
            raise DataError("there is no text to make tokens of")
        part.end_document()
        writer = _writer(Path(work) / path.name, train, val, val_fraction)
        writer.finish().replace(path)


def open_tokens(path: str | Path) -> tuple[TokenStream, TokenStream]:
    """Map the file that :func:`write_tokens` wrote.

    Args:
        path: The file.

    Returns:
        The stream to train on and the one held out, which can be empty.

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
    """Tokens of one side of the split, in a file without a name."""

    def __init__(self, folder: str, tokenizer: TextEncoder) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._tokenizer = tokenizer
        # safetensors has no unsigned numbers of 16 bits that all readers know.
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
    """Both sides in one file, what is held out behind the rest."""
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


def _draw(text: str) -> float:
    """A number in [0, 1) from the beginning of a document."""
    digest = hashlib.sha256(text[:4096].encode("utf-8", "surrogatepass")).digest()
    return mix_seeds(int.from_bytes(digest[:8], "little")) / 2**63
