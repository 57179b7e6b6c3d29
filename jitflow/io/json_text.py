"""Parse JSON texts of checkpoints and other files, where every damage is the same kind of error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def parse_json(text: str | bytes, *, on_pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse the JSON text of a checkpoint, record or other file.

    Args:
        text: The text.
        on_pairs: ``object_pairs_hook`` of :func:`json.loads`.

    Returns:
        Its value.

    Raises:
        ValueError: If it is not JSON, has a number with too many digits, or is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=on_pairs)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
