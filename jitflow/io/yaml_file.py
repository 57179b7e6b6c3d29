"""Read YAML files: settings by name, where a key that is given twice is an error and not the last value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from jitflow.errors import ConfigError


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


def check_repeated_keys(text: str) -> None:
    """Raise RepeatedKeyError if a YAML text gives a key twice, another YAMLError if it is not YAML."""
    yaml.compose(text, Loader=UniqueKeyLoader)


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
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=UniqueKeyLoader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} {path} is not UTF-8, so it is not valid YAML ({error}); save it as UTF-8") from None
    except RepeatedKeyError as error:
        raise ConfigError(f"{what} {path}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # A ValueError means a value that does not match its YAML tag.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{what} {path} is not valid YAML ({reason}); correct it") from None
