"""Feature spaces that a training optimised, kept in its checkpoints: their scores are no held-out judges of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from jitflow.errors import CheckpointError

if TYPE_CHECKING:
    from jitflow.training.terms import LossTerm

ENTRY = "trained_on"
"""Name of the feature spaces among a checkpoint's entries."""
MADE_BY = "made_by"
"""Name of the entry that says how a post-training made the weights."""


def optimised_spaces(terms: Iterable[LossTerm]) -> tuple[str, ...]:
    """Return the feature spaces that loss terms declare (``feature_spaces``), each once.

    Args:
        terms: The loss terms of a module; one of weight 0 trains nothing.
    """
    return merge_spaces(*(getattr(term, "feature_spaces", ()) for term in terms if term.weight))


def merge_spaces(*groups: Iterable[str]) -> tuple[str, ...]:
    """Return the names of several groups of feature spaces, each once, in order."""
    return tuple(dict.fromkeys(name for group in groups for name in group))


def spaces_entry(names: Iterable[str]) -> dict[str, Any]:
    """Return the entry of a checkpoint that names the feature spaces its weights were trained on; empty for none."""
    listed = list(names)
    return {ENTRY: listed} if listed else {}


def read_spaces(extra: Mapping[str, Any]) -> tuple[str, ...]:
    """Read the feature spaces that a checkpoint's weights were trained on; empty for a file that names none.

    Args:
        extra: Entries of the checkpoint.

    Raises:
        CheckpointError: If the entry is damaged.
    """
    names = extra.get(ENTRY) or ()
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise CheckpointError("the checkpoint's feature spaces that it was trained on are damaged: no list of names")
    return merge_spaces(names)


def is_same_space(first: str, second: str) -> bool:
    """Whether two names of feature extractors can be of one network: the image size behind an ``@`` does not count.

    The tag of a network's weights (behind a dot) counts only if both names have one, since it may be left out.
    """
    (one, one_tag), (other, other_tag) = (name.partition("@")[0].partition(".")[::2] for name in (first, second))
    return one == other and (not one_tag or not other_tag or one_tag == other_tag)


def trained_on_note(names: Iterable[str]) -> str:
    """Return a line for people about the feature spaces that a model was trained on; empty for none."""
    listed = ", ".join(names)
    return f"trained on the features of {listed}: judge it by scores of others" if listed else ""
