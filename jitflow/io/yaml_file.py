"""Read YAML files: settings by name, where a key that is given twice is an error and not the last value.

A text is parsed into nodes, the nodes are checked, and only then values are made of them: an alias, such as ``*a``,
counts as often as it is used, so that a kilobyte of aliases of aliases is refused instead of filling the memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from jitflow.errors import ConfigError
from jitflow.io.plain_values import check_number_of_values, measure, well_formed

# PyYAML takes up to 20 microseconds for each character; recipes have some thousands.
_MOST_CHARACTERS = 150_000
_MOST_VALUES = 100_000
# Python converts no longer numbers, and takes quadratic time for those in base 60 (1:30:00).
_MOST_DIGITS = 4300
_BRACKETS = re.compile(r"[\[\]{}]")
_MOST_BRACKETS = 200
_NUMBERS = ("int", "float", "timestamp")


class YamlLimitError(yaml.YAMLError):
    """A YAML text is too long, or its values are too many, too deep, hold themselves, or cannot be converted."""


class RepeatedKeyError(yaml.MarkedYAMLError):
    """A mapping in a YAML text gives a key twice; says which, and both lines, counted from 1."""

    def __str__(self) -> str:
        return str(self.problem)


class UniqueKeyLoader(yaml.SafeLoader):
    """Loader of YAML files: PyYAML's safe one, which also refuses a key that a mapping gives twice.

    A key that is merged from another mapping (``<<``) may be given again: replacing it is what merging is for.
    """

    # Keys are compared where a mapping is read, since merging changes its node afterwards.
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Read a mapping of the text; raise RepeatedKeyError if a plain key is in it twice."""
        node = super().compose_mapping_node(anchor)
        assert node is not None
        first: dict[tuple[str, str], yaml.Mark] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name, mark = (key.tag, key.value), key.start_mark
            if name in first:
                lines = f"lines {first[name].line + 1} and {mark.line + 1}"
                problem = f"the key {key.value!r} is given twice, in {lines}; remove one"
                raise RepeatedKeyError(problem=problem, problem_mark=mark)
            first[name] = mark
        return node

    def get_single_node(self) -> yaml.Node | None:
        """Parse the text into nodes; raise YAMLError if it is too long or its nodes are too many or too deep."""
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            try:
                check_number_of_values(measure(node, parts=_parts_of_node), most=_MOST_VALUES)
            except ValueError as error:
                raise YamlLimitError(str(error)) from None
        return node


def _parts_of_node(node: Any) -> list[yaml.Node] | None:
    """Return the nodes inside one; raise ValueError if it is a text or a number that cannot be converted."""
    if isinstance(node, yaml.ScalarNode):
        kind = node.tag.rpartition(":")[2]
        if kind in _NUMBERS and len(node.value) > _MOST_DIGITS:
            raise ValueError(f"a number has {len(node.value)} digits; at most {_MOST_DIGITS} are read")
        if well_formed(node.value) != node.value:
            raise ValueError("a text holds half of a surrogate pair, which no encoding can write")
        return None
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value)


def parse_yaml(text: str) -> Any:
    """Parse a YAML text of plain values, such as a recipe.

    Args:
        text: The text.

    Returns:
        Its content.

    Raises:
        YAMLError: If it is no YAML of plain values, gives a key twice, is too long, or has values that are too many,
            too deep or hold themselves.
    """
    _check_extent(text)
    with yaml_errors():
        return yaml.load(text, Loader=UniqueKeyLoader)


def check_yaml(text: str) -> None:
    """Raise YAMLError if a text cannot be parsed as YAML within the limits of :func:`parse_yaml`; makes no values."""
    _check_extent(text)
    with yaml_errors():
        yaml.compose(text, Loader=UniqueKeyLoader)


def _check_extent(text: str) -> None:
    if len(text) > _MOST_CHARACTERS:
        raise YamlLimitError(f"it has {len(text):,} characters; at most {_MOST_CHARACTERS:,} are read")
    # PyYAML's time grows with the square of the depth.
    if max(accumulate(1 if c in "[{" else -1 for c in _BRACKETS.findall(text)), default=0) > _MOST_BRACKETS:
        raise YamlLimitError("it is nested too deeply")


@contextmanager
def yaml_errors() -> Iterator[None]:
    """Convert every error that making values of a YAML text can raise into a YAMLError."""
    try:
        yield
    except RecursionError:
        raise YamlLimitError("it is nested too deeply") from None
    # A value that does not match its tag can fail in any way, such as `!!bool maybe` with a KeyError.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise yaml.YAMLError(f"a value does not match its tag ({type(error).__name__}: {error})") from None


def format_yaml(value: Any, **options: Any) -> str:
    """Return plain values as a YAML text; options are those of :func:`yaml.safe_dump`."""
    return str(yaml.safe_dump(value, sort_keys=False, **options))


def read_yaml(path: str | Path, *, what: str = "file") -> Any:
    """Read a YAML file of plain values.

    Args:
        path: The file, which must exist.
        what: What it is called in errors, such as ``"recipe"``.

    Returns:
        Its content, mostly settings by name.

    Raises:
        ConfigError: If it is not UTF-8 or not YAML, or gives a key twice; in one line that names the file.
    """
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} {path} is not UTF-8, so it is not valid YAML ({error}); save it as UTF-8") from None
    except RepeatedKeyError as error:
        raise ConfigError(f"{what} {path}: {error}") from None
    except yaml.YAMLError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{what} {path} is not valid YAML ({reason}); correct it") from None
