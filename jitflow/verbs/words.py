"""Normalise command-line arguments to the form ``--name=value`` that the parser reads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

# A prompt is text, in which a leading ~ is no home folder.
_NO_PATHS = ("prompt",)
# Names of one option, which some commands know under the first and some under the second.
_SAME = {"extractor": "extractors", "extractors": "extractor"}
_TRUTHS = ("true", "false", "yes", "no", "null")


def spell_out(args: Sequence[str], kinds: Mapping[str, str]) -> list[str]:
    """Normalise the options of a command to the form ``--name=value``.

    - ``--num-images 8`` is ``--num_images=8``.
    - An option of a section can be given without it: ``--steps 8`` is ``--sampling.steps=8``, where the command has no
      option ``--steps`` and no other section has one.
    - ``--extractor`` and ``--extractors`` are the same.
    - A list can be several arguments: ``--user_ids 1 2 3`` is ``--user_ids=[1,2,3]``.
    - A switch can be bare: ``--dry_run`` is ``--dry_run=true``, and so can a dotted setting that is not in ``kinds``.
    - A leading ``~`` of a path is replaced by the home folder.

    Args:
        args: Arguments after the command.
        kinds: Annotation of each option by name, such as ``{"sampling.steps": "int | None"}``.

    Returns:
        The normalised arguments; options that are not in ``kinds`` keep their name.
    """
    rest = list(args)
    spelt: list[str] = []
    while rest:
        arg = rest.pop(0)
        if not arg.startswith("--") or arg == "--":
            spelt.append(expand_home(arg))
            continue
        flag, equals, value = arg.partition("=")
        name = full_name(flag[2:].replace("-", "_"), kinds)
        # Only the parser knows the kind of a dotted setting of a recipe.
        kind = kinds.get(name, "bool | str" if "." in name else "")
        if equals:
            values = [value]
        elif kind.startswith("list["):
            values = [rest.pop(0) for _ in range(_count_values(rest))]
            values = [f"[{','.join(values)}]"] if values else []
        elif _is_bare(kind, rest):
            values = ["true"]
        else:
            # If there is no value, the parser reports it.
            values = [rest.pop(0)] if rest and not (rest[0].startswith("--") and len(rest[0]) > 2) else []
        values = [value if name in _NO_PATHS else expand_home(value) for value in values]
        spelt.append(f"--{name}={values[0]}" if values else f"--{name}")
    return spelt


def full_name(name: str, kinds: Mapping[str, str]) -> str:
    """Return the name of an option with its section, where only one section has an option of that name."""
    name = _SAME[name] if name not in kinds and _SAME.get(name) in kinds else name
    found = [known for known in kinds if known.endswith(f".{name}")] if name not in kinds else []
    return found[0] if len(found) == 1 else name


def expand_home(value: str) -> str:
    """Replace a leading ``~`` of a path by the home folder; other text is returned unchanged."""
    return os.path.expanduser(value) if value == "~" or value.startswith("~/") else value  # noqa: PTH111 (may be text)


def _count_values(args: Sequence[str]) -> int:
    return next((place for place, arg in enumerate(args) if arg.startswith("--")), len(args))


def _is_bare(kind: str, args: Sequence[str]) -> bool:
    """Whether an option is a switch without a value."""
    parts = [part.strip() for part in kind.split("|")]
    if "bool" not in parts:
        return False
    if not args or args[0].startswith("--"):
        return True
    return set(parts) <= {"bool", "None"} and args[0].lower() not in _TRUTHS
