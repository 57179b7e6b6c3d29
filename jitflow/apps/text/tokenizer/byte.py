"""Byte tokenizer: UTF-8 bytes, no training, any language, 258 ids."""

from __future__ import annotations

import json
from collections.abc import Iterable

from jitflow.apps.text.tokenizer.base import fingerprint_of
from jitflow.io.plain_values import well_formed

_NUM_BYTES = 256


class ByteTokenizer:
    """Tokenizer with one id for each UTF-8 byte, 256 for the end and 257 for padding."""

    name = "bytes"
    vocab_size = _NUM_BYTES + 2
    end_id = _NUM_BYTES
    pad_id = _NUM_BYTES + 1
    fingerprint = fingerprint_of("bytes", _NUM_BYTES, _NUM_BYTES + 1)

    def encode(self, text: str) -> list[int]:
        """Return the UTF-8 bytes of a text as ids."""
        return list(well_formed(text).encode("utf-8"))

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids; ids that are not bytes are dropped."""
        return bytes(i for i in ids if 0 <= i < _NUM_BYTES).decode("utf-8", "replace")

    def to_json(self) -> str:
        """Return the tokenizer's definition."""
        return json.dumps({"kind": "bytes"})
