"""The recipe stored in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RECIPE_ENTRY = "recipe"


def held_recipe(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the complete recipe stored in a checkpoint's content; None if there is none."""
    recipe = checkpoint.get(RECIPE_ENTRY)
    return recipe if isinstance(recipe, dict) else None
