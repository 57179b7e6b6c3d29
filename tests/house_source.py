"""The library's source as syntax trees, for the tests that hold its rules: files, imports and the order of its parts.

Nothing of the library is imported.
"""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

# A part may import those of a lower level and itself.
LEVELS = {
    "errors": 0,
    "host": 1,
    "io": 2,
    "pictures": 3,
    "core": 4,
    "kernels": 4,
    "layers": 5,
    "nets": 6,
    "codec": 7,
    "data": 7,
    "encoders": 7,
    "training": 8,
    "applications": 9,
    "checkpoint": 10,
    "model": 11,
    "evaluation": 12,
    "posttraining": 13,
    "callbacks": 13,
    "apps": 14,
    "run": 15,
    "inspect": 16,
    "export": 16,
    "studio": 17,
    "verbs": 18,
    "cli": 19,
    "__main__": 20,
}

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class House:
    """The library and its tests in a checkout; every file is parsed once.

    Attributes:
        root: Folder of the checkout.
    """

    root: Path

    @property
    def package(self) -> Path:
        """Folder of the library."""
        return self.root / "jitflow"

    @cached_property
    def files(self) -> list[Path]:
        """Files of the library."""
        return sorted(self.package.rglob("*.py"))

    @cached_property
    def tests(self) -> list[Path]:
        """Files of the tests."""
        return sorted((self.root / "tests").rglob("*.py"))

    def place(self, path: Path, node: ast.AST | None = None) -> str:
        """Name a file from the root, with the line of a node."""
        relative = path.relative_to(self.root).as_posix()
        return relative if node is None else f"{relative}:{node.lineno}"

    def module(self, path: Path) -> str:
        """Return the dotted name of a file of the library."""
        words = path.relative_to(self.root).with_suffix("").parts
        return ".".join(words[:-1] if words[-1] == "__init__" else words)

    def path(self, module: str) -> Path:
        """Return the file of a module of the library, also of one that is not there."""
        inside = self.root.joinpath(*module.split("."))
        return inside / "__init__.py" if inside.is_dir() else inside.with_suffix(".py")

    def tree(self, path: Path) -> ast.Module:
        """Parse a file."""
        if path not in self._trees:
            # The garbage collector would go through all trees again and again, four times the work of parsing them.
            with _no_collection():
                self._trees[path] = ast.parse(path.read_text(encoding="utf-8"))
        return self._trees[path]

    def nodes(self, path: Path, *kinds: type) -> list[Any]:
        """List the nodes of a file's tree that are of some classes."""
        if path not in self._nodes:
            with _no_collection():
                self._nodes[path] = _by_kind(self.tree(path))
        return [node for kind in kinds for node in self._nodes[path].get(kind, ())]

    def imported_modules(self, path: Path) -> list[str]:
        """List every module that a file imports, at its top or later."""
        return [name for node in self.nodes(path, *IMPORTS) for name in names_of(node)]

    @cached_property
    def _trees(self) -> dict[Path, ast.Module]:
        return {}

    @cached_property
    def _nodes(self) -> dict[Path, dict[type, list[Any]]]:
        return {}


@contextmanager
def _no_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _by_kind(tree: ast.Module) -> dict[type, list[Any]]:
    """Sort all nodes of a tree by their class; ``ast.walk`` would take twice the time."""
    found: dict[type, list[Any]] = {}
    pending: list[ast.AST] = [tree]
    for node in pending:
        found.setdefault(type(node), []).append(node)
        for value in vars(node).values():
            if isinstance(value, list):
                pending += [item for item in value if isinstance(item, ast.AST)]
            elif isinstance(value, ast.AST) and not isinstance(value, ast.expr_context):
                pending.append(value)
    return found


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements directly inside a node, also handlers of errors and cases, which hold statements."""
    for field in ("body", "handlers", "cases", "orelse", "finalbody"):
        inside = getattr(node, field, ())
        yield from inside if isinstance(inside, list) else ()


def qualified_functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """Yield the functions of a file with their names inside it, such as ``JiT.__init__``."""
    pending: list[tuple[str, ast.AST]] = [("", tree)]
    while pending:
        above, owner = pending.pop()
        for node in statements(owner):
            name = f"{above}{node.name}" if isinstance(node, DEFINITIONS) else above
            if isinstance(node, FUNCTIONS):
                yield name, node
            pending.append((f"{name}." if isinstance(node, DEFINITIONS) else above, node))


def names_of(node: ast.AST) -> Iterator[str]:
    """Yield what an import statement names, modules and ``module.name``; nothing for other nodes."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno} has a relative import"
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_at_the_top(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the imports that run when a file is imported: in no function, and not for types only."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, IMPORTS):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
        elif not isinstance(node, FUNCTIONS):
            pending.extend(statements(node))


def part_of(module: str) -> str | None:
    """Which part of jitflow a dotted name is in; None if foreign or the package itself."""
    words = module.split(".")
    if words[0] != "jitflow" or len(words) == 1 or (len(words) == 2 and words[1] == "__version__"):
        return None
    return words[1]
