"""Parse JSON texts of checkpoints and other files, where every damage is the same kind of error."""

from __future__ import annotations

import json
from collections.abc import Callable
from json import JSONDecodeError
from typing import Any

from jitflow.io.plain_values import MOST_DEPTH, well_formed

# A value takes up to 64 bytes of memory, an empty list three characters of a text: 400 MB.
_MOST_VALUES = 6_000_000
_LONG_RECORD = 1 << 24
_DECODER = json.JSONDecoder()
__all__ = ["JSONDecodeError", "decode_json", "parse_json", "plain_copy"]


def parse_json(text: str, *, on_pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse the JSON text of a checkpoint, record or other file.

    Args:
        text: The text.
        on_pairs: ``object_pairs_hook`` of :func:`json.loads`.

    Returns:
        Its value; lone surrogates in texts, which no encoding has, are U+FFFD.

    Raises:
        ValueError: If it is not JSON, has too many values or a number with too many digits, or is nested too deeply.
    """
    most_values = sum(map(text.count, "[{,:"))
    if most_values > _MOST_VALUES:
        raise ValueError(f"it has up to {most_values:,} values; at most {_MOST_VALUES:,} are read")
    try:
        value = json.loads(text, object_pairs_hook=on_pairs)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return _checked(value, 0, surrogates="\\u" in text)


def decode_json(text: str, place: int) -> tuple[Any, int]:
    """Parse the JSON value that begins at a place of a text, such as a record of a corpus.

    Args:
        text: The text.
        place: Index of the value's first character.

    Returns:
        The value, as :func:`parse_json` gives it, and the index after it.

    Raises:
        ValueError: As in :func:`parse_json`; a :class:`json.JSONDecodeError`, with the place, if it is not JSON.
    """
    if len(text) - place > _LONG_RECORD and sum(map(text.count, "[{,:")) > _MOST_VALUES:
        raise ValueError(f"a record has more than {_MOST_VALUES:,} values")
    try:
        value, end = _DECODER.raw_decode(text, place)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return _checked(value, 0, surrogates="\\u" in text[place:end]), end


def plain_copy(value: Any) -> Any:
    """Return settings as a JSON file would give them: lists in place of tuples, names as text."""
    return json.loads(json.dumps(value))


def _checked(value: Any, depth: int, *, surrogates: bool) -> Any:
    """Return a parsed value, texts without lone surrogates; raise ValueError if it is nested too deeply."""
    if isinstance(value, str):
        return well_formed(value) if surrogates else value
    if not isinstance(value, (dict, list)):
        return value
    if depth >= MOST_DEPTH:
        raise ValueError(f"it is nested too deeply, more than {MOST_DEPTH} levels")
    if isinstance(value, dict):
        if surrogates:
            return {well_formed(k): _checked(v, depth + 1, surrogates=True) for k, v in value.items()}
        for inner in value.values():
            if isinstance(inner, (dict, list)):
                _checked(inner, depth + 1, surrogates=False)
        return value
    if surrogates:
        return [_checked(inner, depth + 1, surrogates=True) for inner in value]
    for inner in value:
        if isinstance(inner, (dict, list)):
            _checked(inner, depth + 1, surrogates=False)
    return value
