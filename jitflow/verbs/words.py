"""Words of a command line, as people type them, brought to the form that the parser reads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

# A prompt is text, and may begin with anything.
_NO_PATHS = ("prompt",)
_TRUTHS = ("true", "false", "yes", "no", "null")


def spell_out(args: Sequence[str], kinds: Mapping[str, str]) -> list[str]:
    """Bring the options of a command to the form ``--name=value``.

    - ``--num-images 8`` is ``--num_images=8``.
    - An option of a section can be given without it: ``--steps 8`` is ``--sampling.steps=8``, where the command has no
      option ``--steps`` and no other section has one.
    - A list is several words: ``--user_ids 1 2 3`` is ``--user_ids=[1,2,3]``.
    - A switch can be bare: ``--dry_run`` is ``--dry_run=true``, and so can a dotted setting that is not in ``kinds``.
    - ``~`` at the beginning of a path is the home folder.

    Args:
        args: Words after the command.
        kinds: Annotation of each option by name, such as ``{"sampling.steps": "int | None"}``.

    Returns:
        The words; those that are no option of ``kinds`` keep their name.
    """
    words = list(args)
    spelt: list[str] = []
    while words:
        word = words.pop(0)
        if not word.startswith("--") or word == "--":
            spelt.append(expand_home(word))
            continue
        flag, equals, value = word.partition("=")
        name = full_name(flag[2:].replace("-", "_"), kinds)
        # A setting of a recipe, of which only the parser knows what it is.
        kind = kinds.get(name, "bool | str" if "." in name else "")
        if equals:
            values = [value]
        elif kind.startswith("list["):
            values = [words.pop(0) for _ in range(_count_values(words))]
            values = [f"[{','.join(values)}]"] if values else []
        elif _is_bare(kind, words):
            values = ["true"]
        else:
            # Without one the parser says what is missing.
            values = [words.pop(0)] if words and not (words[0].startswith("--") and len(words[0]) > 2) else []
        values = [value if name in _NO_PATHS else expand_home(value) for value in values]
        spelt.append(f"--{name}={values[0]}" if values else f"--{name}")
    return spelt


def full_name(name: str, kinds: Mapping[str, str]) -> str:
    """Return the name of an option with its section, where only one section has an option of that name."""
    found = [known for known in kinds if known.endswith(f".{name}")] if name not in kinds else []
    return found[0] if len(found) == 1 else name


def expand_home(value: str) -> str:
    """Replace ``~`` at the beginning of a path by the home folder; every other text stays as it is."""
    return os.path.expanduser(value) if value == "~" or value.startswith("~/") else value  # noqa: PTH111 (may be text)


def _count_values(words: Sequence[str]) -> int:
    return next((place for place, word in enumerate(words) if word.startswith("--")), len(words))


def _is_bare(kind: str, words: Sequence[str]) -> bool:
    """Whether an option has no value behind it, and none is needed."""
    parts = [part.strip() for part in kind.split("|")]
    if "bool" not in parts:
        return False
    if not words or words[0].startswith("--"):
        return True
    return set(parts) <= {"bool", "None"} and words[0].lower() not in _TRUTHS
