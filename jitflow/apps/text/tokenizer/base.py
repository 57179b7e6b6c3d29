"""The protocol of tokenizers, and their shared helpers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol


class Tokenizer(Protocol):
    """Tokenizer that converts text to token ids and back.

    Attributes:
        name: Short name for people, such as ``"bytes"``.
        vocab_size: Number of ids, special ones included; every id lies in ``[0, vocab_size)``.
        end_id: Id that marks the end of a document.
        pad_id: Id of the padding, always different from ``end_id``.
        fingerprint: SHA-256 of the definition; equal for tokenizers that give equal ids, whatever their name.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def vocab_size(self) -> int: ...  # noqa: D102

    @property
    def end_id(self) -> int: ...  # noqa: D102

    @property
    def pad_id(self) -> int: ...  # noqa: D102

    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without end or padding. Lone surrogates are read as U+FFFD."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids.

        All ids are decoded, also after an end token. Special and unknown ids are dropped; bytes that are not UTF-8
        become U+FFFD.
        """
        ...

    def to_json(self) -> str:
        """Return the tokenizer's definition, for a checkpoint; ``tokenizer_from_json`` reads it."""
        ...


def fingerprint_of(*parts: object) -> str:
    """Return the SHA-256 of the parts of a tokenizer's definition."""
    digest = hashlib.sha256()
    for part in parts:
        # With its length, so that different lists of parts never give the same bytes.
        data = str(part).encode("utf-8")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
