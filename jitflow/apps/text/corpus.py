"""Built-in corpus: the English documentation in Python's standard library, without a download.

The topics of ``help()`` and the docstrings of the standard library's modules, read from their source without importing
them. The content depends on the Python version; within one version it is always the same.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jitflow.errors import ConfigError, DataError

Split = Literal["train", "held_out"]
HELD_OUT_SHARE = 0.1
# Tests, applications, and packages of other projects.
_EXCLUDED = {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"}
# Shorter documents have too little content; shorter paragraphs ("Return True if ...") may legitimately repeat.
_MIN_DOCUMENT = 200
_MIN_REPEAT = 40
# A document that loses a larger share than this is reduced to headings.
_MAX_LOST = 0.5
_RULE = re.compile(r"\s*([-=*~^#+_\"'.`])\1{2,}\s*")
_PARAGRAPH = re.compile(r"\n{2,}")
_Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
# Fields of a statement that hold further statements.
_BLOCKS = ("body", "orelse", "handlers", "finalbody", "cases")


@dataclass(frozen=True)
class CorpusSize:
    """Size of a corpus split.

    Attributes:
        num_documents: Number of documents.
        num_characters: Number of characters, without document ends.
        megabytes: Size in UTF-8, in millions of bytes.
    """

    num_documents: int
    num_characters: int
    megabytes: float


def builtin_documents(split: Split) -> list[str]:
    """Return the documents of a split: a topic of ``help()``, or all docstrings of a module.

    The split of a document depends on its name alone, so the splits share no module and no topic; a paragraph that
    several documents contain is kept in the first of them only.

    Args:
        split: ``"train"`` (nine documents in ten) or ``"held_out"``.

    Returns:
        The documents, sorted by name.

    Raises:
        ConfigError: If the split is unknown.
        DataError: If this Python installation has no source files.
    """
    if split not in ("train", "held_out"):
        raise ConfigError(f"split must be 'train' or 'held_out'; got {split!r}")
    documents = [text for name, text in builtin_texts() if is_held_out(name) == (split == "held_out")]
    if not documents:
        raise DataError("this Python has no documentation in its standard library; give a data_path")
    return documents


def builtin_size(split: Split) -> CorpusSize:
    """Return the size of a split of the built-in corpus."""
    documents = builtin_documents(split)
    return CorpusSize(
        len(documents), sum(map(len, documents)), sum(len(text.encode("utf-8")) for text in documents) / 1e6
    )


def is_held_out(name: str) -> bool:
    """Whether a document is held out, which depends on its name alone."""
    digest = hashlib.sha256(name.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64


def clean_text(text: str) -> str:
    """Remove layout from a text: rules under headings, tabs, trailing blanks, repeated empty lines."""
    lines = (line.rstrip() for line in text.expandtabs().splitlines())
    kept = "\n".join(line for line in lines if not _RULE.fullmatch(line))
    return _PARAGRAPH.sub("\n\n", kept).strip("\n")


def without_repeats(documents: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Remove repeated paragraphs from documents, and documents that lose most of their text.

    Args:
        documents: Name and text of each.

    Returns:
        The documents without paragraphs that occurred before, ignoring blanks and case.
    """
    seen: set[str] = set()
    kept = []
    for name, text in documents:
        paragraphs = []
        for paragraph in _PARAGRAPH.split(text):
            key = " ".join(paragraph.split()).casefold()
            if len(key) < _MIN_REPEAT or key not in seen:
                paragraphs.append(paragraph)
            seen.add(key)
        rest = "\n\n".join(paragraphs)
        if len(rest) >= max(_MIN_DOCUMENT, (1 - _MAX_LOST) * len(text)):
            kept.append((name, rest))
    return kept


def docstrings(source: bytes) -> list[str]:
    """Return the docstrings of a module, its classes and its functions, in the order of the source."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        tree = ast.parse(source)
    nodes = sorted(_definitions(tree), key=lambda node: getattr(node, "lineno", 0))
    return [text for node in nodes if (text := ast.get_docstring(node))]


def _definitions(node: ast.AST) -> Iterator[_Definition]:
    """Walk the statements of a syntax tree, not their expressions, which are most of it and define nothing."""
    if isinstance(node, _Definition):
        yield node
    for name in _BLOCKS:
        for child in getattr(node, name, ()):
            yield from _definitions(child)


@functools.cache
def builtin_texts() -> tuple[tuple[str, str], ...]:
    """Return names and texts of all documents of the corpus, sorted by name, without repeats."""
    raw = {**topic_texts(), **module_texts()}
    return tuple(without_repeats([(name, clean_text(raw[name])) for name in sorted(raw)]))


def topic_texts() -> dict[str, str]:
    """Return Python's help topics, one document each, by ``topic NAME``; none where this Python has none."""
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions package it separately
        return {}
    return {f"topic {name}": text for name, text in topics.items()}


def module_texts() -> dict[str, str]:
    """Return the docstrings of the standard library, one document a module, by ``module NAME``."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] not in sys.stdlib_module_names or _EXCLUDED & set(parts) or parts[0] == "pydoc_data":
            continue
        try:
            texts = docstrings(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue  # templates and similar files, which are not valid source
        if texts:
            found["module " + ".".join(part for part in parts if part != "__init__")] = "\n\n".join(texts)
    return found
