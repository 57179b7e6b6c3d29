"""Stream the values of a JSON file, so that a list may be larger than memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TextIO

from jitflow.errors import DataError
from jitflow.io.json_text import JSONDecodeError, decode_json

BLOCK_CHARACTERS = 1 << 20
"""Characters of a JSON file that are read at once."""
_BLANK = re.compile(r"[ \t\n\r]*")
# Distance from the end within which an incomplete block can fail to parse; an escaped surrogate pair has 12 characters.
_TAIL = 16
_NUMBER_TAIL = 3


def iter_json_values(file: TextIO, name: str) -> Iterator[Any]:
    """Yield the items of a JSON list, or consecutive JSON values without a list.

    Args:
        file: Text stream.
        name: Name of the file for messages.

    Yields:
        The items; only one item and a block of text are in memory at once.

    Raises:
        DataError: If the file is not valid JSON; names the file and the line.
    """
    reader = _Reader(file, name)
    in_list = reader.take("[")
    if in_list and reader.take("]"):
        reader.expect_end()
        return
    while not reader.at_end():
        yield reader.value()
        if in_list and not reader.take(","):
            if not reader.take("]"):
                raise reader.error("expected , or ]")
            reader.expect_end()
            return
    if in_list:
        raise reader.error("the list has no end; the file was truncated")


class _Reader:
    """A block of the text and the position read so far."""

    def __init__(self, file: TextIO, name: str) -> None:
        self._file, self._name = file, name
        self._text, self._place, self._line = "", 0, 1

    def take(self, character: str) -> bool:
        """Consume a character, and blanks before it, if it comes next."""
        if self.at_end() or self._text[self._place] != character:
            return False
        self._place += 1
        return True

    def at_end(self) -> bool:
        """Skip blanks and return whether the end of the text is reached."""
        while True:
            blanks = _BLANK.match(self._text, self._place)
            assert blanks is not None
            self._place = blanks.end()
            if self._place < len(self._text):
                return False
            if not self._read_block():
                return True

    def expect_end(self) -> None:
        """Raise DataError if anything but blanks follows."""
        if not self.at_end():
            raise self.error("there is text after the list")

    def value(self) -> Any:
        """Parse the JSON value at the current position."""
        while True:
            try:
                value, end = decode_json(self._text, self._place)
            except JSONDecodeError as error:
                is_incomplete = error.pos >= len(self._text) - _TAIL or error.msg.startswith("Unterminated string")
                # Double the block each time, so that a long value is not re-parsed too often.
                if is_incomplete and self._read_block(len(self._text) - self._place):
                    continue
                raise self.error(error.msg, error.pos) from None
            except ValueError as error:
                raise self.error(str(error)) from None
            # A number at the end of the block may continue after it (1, 1., 1e+5); other values have an explicit end.
            if isinstance(value, (int, float)) and end > len(self._text) - _NUMBER_TAIL and self._read_block():
                continue
            self._place = end
            return value

    def error(self, reason: str, place: int | None = None) -> DataError:
        """Build the error for a position in the text, by default the current one."""
        line = self._line + self._text.count("\n", 0, self._place if place is None else place)
        return DataError(f"{self._name} is not valid JSON: line {line}: {reason}")

    def _read_block(self, least: int = 0) -> bool:
        """Drop the text already read and read another block; False at the end of the file."""
        block = self._file.read(max(BLOCK_CHARACTERS, least))
        if block:
            self._line += self._text.count("\n", 0, self._place)
            self._text = self._text[self._place :] + block
            self._place = 0
        return bool(block)
