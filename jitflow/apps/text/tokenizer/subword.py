"""Subword tokenizers of the ``tokenizers`` library, stored by their definition."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from jitflow.apps.text.tokenizer.base import fingerprint_of
from jitflow.apps.text.tokenizer.probe import check_definition
from jitflow.errors import ConfigError, optional_package
from jitflow.io.plain_values import well_formed

_MOST_IDS = 1 << 24
# Derives from BaseException, and has no name that could be imported.
_PANIC = "PanicException"


def tokenizers_library() -> ModuleType:
    """Import the ``tokenizers`` library for subword tokenizers; raise ConfigError if it is not installed."""
    # Set explicitly, or the library prints a warning whenever a loader forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    with optional_package(
        "tokenizers",
        missing="this tokenizer needs the package tokenizers; pip install 'jitflow[text]', or choose bytes",
    ):
        import tokenizers
    return tokenizers


class SubwordTokenizer:
    """Tokenizer that runs a definition of the ``tokenizers`` library.

    Text never encodes to a special token, even if it spells one out.

    Args:
        definition: Content of a ``tokenizer.json``, stored unchanged.
        end_id: Id of the end token; None appends one to the vocabulary.
        pad_id: Id of the padding token; None, or the id of the end token, appends one to the vocabulary.
        name: Short name for people.

    Raises:
        ConfigError: If the library is missing, cannot read the definition, or an id is negative.
    """

    def __init__(self, definition: str, *, end_id: int | None = None, pad_id: int | None = None, name: str) -> None:
        self.name = name
        self._definition = definition
        self._engine = _engine(definition)
        # Ids can have gaps, so the largest id counts, not their number.
        size = 1 + max(self._engine.get_vocab(with_added_tokens=True).values(), default=-1)
        if size > _MOST_IDS:
            raise ConfigError(f"tokenizer {name} has the id {size - 1:,}; at most {_MOST_IDS:,} ids are possible")
        if end_id is None:
            end_id, size = size, size + 1
        if pad_id is None or pad_id == end_id:
            # Padding is masked out of the loss and the end token must be learned, so they cannot share an id.
            pad_id = max(size, end_id + 1)
        if min(end_id, pad_id) < 0:
            raise ConfigError(f"tokenizer {name}: end_id and pad_id cannot be negative; got {end_id} and {pad_id}")
        self.end_id = end_id
        self.pad_id = pad_id
        self.vocab_size = max(size, end_id + 1, pad_id + 1)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer's definition and special ids."""
        return fingerprint_of("subword", self._definition, self.end_id, self.pad_id)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without end or padding."""
        with _library_errors(f"tokenizer {self.name} cannot encode a text"):
            return list(self._engine.encode(well_formed(text), add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids; special and unknown ids are dropped."""
        special = (self.end_id, self.pad_id)
        known = [int(i) for i in ids if 0 <= i < self.vocab_size and i not in special]
        with _library_errors(f"tokenizer {self.name} cannot decode ids"):
            return str(self._engine.decode(known, skip_special_tokens=True))

    def token_id(self, token: str) -> int | None:
        """Return the id of a token by its spelling, None if there is none."""
        return self._engine.token_to_id(token)

    def to_json(self) -> str:
        """Return the tokenizer's definition, special ids and name."""
        return json.dumps(
            {
                "kind": "subword",
                "name": self.name,
                "end_id": self.end_id,
                "pad_id": self.pad_id,
                "definition": self._definition,
            }
        )


@contextmanager
def _library_errors(message: str) -> Iterator[None]:
    """Convert what the library raises, plain exceptions and panics of its Rust code, into one ConfigError."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        reason = " ".join(str(error).split())
        raise ConfigError(f"{message} ({reason:.200})") from None


def _engine(definition: str) -> Any:
    library = tokenizers_library()
    check_definition(definition, library)
    with _library_errors("this is no tokenizer that the tokenizers library can read"):
        engine = library.Tokenizer.from_str(definition)
    # A definition can request truncation or padding of every text.
    engine.no_truncation()
    engine.no_padding()
    engine.encode_special_tokens = True
    return engine
