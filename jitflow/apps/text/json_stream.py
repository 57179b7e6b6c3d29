"""The values of a JSON file one by one, so that a list may be larger than memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from jitflow.errors import DataError

BLOCK_CHARACTERS = 1 << 20
"""Characters of a JSON file that are read at once."""
_BLANK = re.compile(r"[ \t\n\r]*")
# How near its end a text that was cut short can fail to parse; an escape of a surrogate pair has 12 characters.
_TAIL = 16
_NUMBER_TAIL = 3


def iter_json_values(file: TextIO, name: str) -> Iterator[Any]:
    """Read the items of a JSON list, or values that follow one another without one.

    Args:
        file: Text stream.
        name: Name of the file for messages.

    Yields:
        The items. Only one, and a block of text, is in memory at a time.

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
        raise reader.error("the list has no end; the file was cut short")


class _Reader:
    """A stretch of the text, and the place in it that was read up to."""

    def __init__(self, file: TextIO, name: str) -> None:
        self._file, self._name = file, name
        self._text, self._place, self._line = "", 0, 1
        self._decode = json.JSONDecoder().raw_decode

    def take(self, character: str) -> bool:
        """Step over a character, and the blanks before it, if it comes next."""
        if self.at_end() or self._text[self._place] != character:
            return False
        self._place += 1
        return True

    def at_end(self) -> bool:
        """Skip blanks and tell whether nothing is left."""
        while True:
            blanks = _BLANK.match(self._text, self._place)
            assert blanks is not None
            self._place = blanks.end()
            if self._place < len(self._text):
                return False
            if not self._more():
                return True

    def expect_end(self) -> None:
        """Raise DataError if more than blanks follow."""
        if not self.at_end():
            raise self.error("there is text behind the list")

    def value(self) -> Any:
        """Read the value that begins here."""
        while True:
            try:
                value, end = self._decode(self._text, self._place)
            except json.JSONDecodeError as error:
                cut_short = error.pos >= len(self._text) - _TAIL or error.msg.startswith("Unterminated string")
                # Twice as much each time, so that a long value is not parsed from its beginning too often.
                if cut_short and self._more(len(self._text) - self._place):
                    continue
                raise self.error(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:
                raise self.error(str(error)) from None
            # A number near the end could go on behind it (1, 1., 1e+5); everything else has an end of its own.
            if isinstance(value, (int, float)) and end > len(self._text) - _NUMBER_TAIL and self._more():
                continue
            self._place = end
            return value

    def error(self, reason: str, place: int | None = None) -> DataError:
        """Build the error for a place in the text, by default the present one."""
        line = self._line + self._text.count("\n", 0, self._place if place is None else place)
        return DataError(f"{self._name} is not valid JSON: line {line}: {reason}")

    def _more(self, least: int = 0) -> bool:
        """Forget what was read and add a block; False at the end of the file."""
        block = self._file.read(max(BLOCK_CHARACTERS, least))
        if block:
            self._line += self._text.count("\n", 0, self._place)
            self._text = self._text[self._place :] + block
            self._place = 0
        return bool(block)
