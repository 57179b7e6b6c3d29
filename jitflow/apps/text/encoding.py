"""Detect the encoding of a text file by reading it once."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path

FALLBACK = "cp1252"
BLOCK_BYTES = 1 << 20
"""Bytes of a text file that are read at once."""
# Longest first: the byte-order mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Damaged UTF-8 has few invalid characters; another encoding read as UTF-8 has hardly a valid one.
_MAX_BROKEN = 0.1
_MAX_ZEROS = 0.1


@dataclass(frozen=True)
class Encoding:
    """Encoding of a text file.

    Attributes:
        name: Python's name of the encoding.
        doubt: Possible problem, as text; empty if there is none.
    """

    name: str
    doubt: str = ""


def detect_encoding(path: Path) -> Encoding:
    """Find the encoding of a text file.

    A byte-order mark decides; without one the file is UTF-8 if nearly all of its bytes are valid, else Windows-1252.

    Args:
        path: The file; read completely, in blocks.

    Returns:
        The encoding. Decode with ``errors="replace"``.
    """
    with path.open("rb") as file:
        head = file.read(4)
        for mark, name in _MARKS:
            if head.startswith(mark):
                return Encoding(name)
        file.seek(0)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        num_bytes = num_zeros = num_broken = num_foreign = 0
        while True:
            block = file.read(BLOCK_BYTES)
            text = decoder.decode(block, final=not block)
            num_bytes += len(block)
            num_zeros += block.count(0)
            if not text.isascii():
                num_foreign += len(text) - len(text.encode("ascii", "ignore"))
                num_broken += text.count("\ufffd")
            if not block:
                break
    if num_zeros > _MAX_ZEROS * num_bytes:
        return Encoding("utf-8", "many zero bytes: UTF-16 without a byte-order mark, or no text")
    if not num_broken:
        return Encoding("utf-8")
    if num_broken <= _MAX_BROKEN * num_foreign:
        return Encoding("utf-8", f"{num_broken} damaged characters, replaced by U+FFFD")
    return Encoding(FALLBACK, f"not UTF-8; read as {FALLBACK}")
