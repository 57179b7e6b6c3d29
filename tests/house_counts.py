"""What is counted in the house: each function lists the places where a rule does not hold yet."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from house_source import (
    DEFINITIONS,
    FUNCTIONS,
    LEVELS,
    House,
    imports_at_the_top,
    names_of,
    part_of,
    qualified_functions,
)

MOST_LINES = 400
MOST_FUNCTION_LINES = 100
MOST_ARGUMENTS = 14
MOST_LETTERS_MATCHED = 40

# Signatures that the documents print, and networks, whose arguments are their architecture.
MANY_ARGUMENTS = (
    "jitflow.apps.images.data:JiTDataModule.__init__",
    "jitflow.apps.images.module:JiTLightningModule.__init__",
    "jitflow.callbacks.defaults:create_default_callbacks",
    "jitflow.nets.jit:JiT.__init__",
    "jitflow.nets.lightningdit:LightningDiT.__init__",
)
# Methods that the documents let users call and override.
DOCUMENTED_METHODS = {"_forward_sample", "_euler_step", "_heun_step", "_evaluate", "_get_train_transforms"}

APPLICATIONS = {"images", "text", "microdoppler"}
_APPLICATION = re.compile(r"\b(TextLightningModule|UserConditionedDiT|JiTLightningModule)\b|\bjitflow\.apps\.\w+")

_NAMING = (ast.Name, ast.Attribute, ast.Import, ast.ImportFrom, ast.Constant)
_DECIDING = (ast.Compare, ast.BoolOp, ast.IfExp, ast.MatchValue)
_USES = (ast.Attribute, ast.ImportFrom, ast.Call)

_NOUNS = """
    accelerator accuracy activation AdamW adaLN angle application architecture array attention autoencoder average
    axis batch bias block byte callback carrier channel checkpoint checksum class classifier codebook codec codeword
    colour condition convolution corpus covariance CPU crop data decay decoder demo device digit dimension
    discrepancy distance distribution document echo eigenvalue EMA embedding encoder epoch evaluation extractor
    feature FID file frequency gait GPU gradient grid guidance head image JSON kernel KID label latent lattice layer
    logit loss manifest manifold matrix mean median memory metric middleware model modulation module moment network
    noise norm optimiser option parameter patch percentile picture pixel plug-in PNG position posterior precision
    prediction probability process progress prompt protocol radar recall recipe reconstruction residual resolution
    rotation run sample sampler sampling schedule score seed SHA-256 shard signal snapshot solver spectrogram split
    stage standard state statistics step strategy surrogate sweep tensor text thread time token tokenizer trainer
    training trajectory transform user UTF-8 VAE validation variance variant vector velocity walk walker weight
    window worker YAML
"""
# A command that is named says what it is about.
_NOUN = re.compile(rf"\b({'|'.join(_NOUNS.split())}|jitflow \w+)('?s|es|ies)?\b", re.IGNORECASE)
# Code is no English; "one at a time" is not about time.
_NO_WORDS = re.compile(r":\w+:`[^`]*`|(`+)(?!jitflow )[^`]*\1|\bat a time\b")


def find_trainings(house: House) -> list[str]:
    """Places that make a Trainer, in files that also call ``.fit(``; one that trains nothing is none."""
    found = []
    for path in house.files:
        calls = [(node, _called(node)) for node in house.nodes(path, ast.Call)]
        if any(isinstance(node.func, ast.Attribute) and name == "fit" for node, name in calls):
            found += [house.place(path, node) for node, name in calls if name == "Trainer"]
    return found


def _called(call: ast.Call) -> str:
    """Last word of what is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def find_questions(house: House) -> list[str]:
    """Lines outside of applications that name one: its module's class, its package, or its name where it decides.

    A name decides in a comparison, in a ``case``, and as the last resort of an ``if`` or ``or``.
    """
    found = []
    for path in house.files:
        if path.is_relative_to(house.package / "apps") or path == house.package / "applications.py":
            continue
        owners = house.nodes(path, ast.Module, *DEFINITIONS)
        prose = {id(node.body[0].value) for node in owners if ast.get_docstring(node, clean=False) is not None}
        lines: dict[int, str] = {}
        for node in house.nodes(path, *_NAMING, *_DECIDING):
            named = _application_in(node)
            if named and id(node) not in prose:
                lines.setdefault(node.lineno, named)
        found += [f"{house.place(path)}:{line} {named}" for line, named in sorted(lines.items())]
    return found


def _application_in(node: ast.AST) -> str:
    """What of an application a node names; empty for nothing."""
    if isinstance(node, _NAMING):
        named = [word for word in _words(node) if _APPLICATION.search(word)]
    else:
        inner = _deciding(node)
        parts = [*inner, *(item for part in inner for item in getattr(part, "elts", ()))]
        named = [part.value for part in parts if isinstance(part, ast.Constant) and part.value in APPLICATIONS]
    return named[0] if named else ""


def _words(node: ast.AST) -> list[str]:
    """What a node of a tree names."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    return list(names_of(node))


def _deciding(node: ast.AST) -> list[ast.AST]:
    """What is compared in a node, or chosen between."""
    if isinstance(node, ast.Compare):
        return [node.left, *node.comparators]
    if isinstance(node, ast.BoolOp):
        return [*node.values]
    return [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node.value]


def find_long_files(house: House) -> list[str]:
    """Files of the library with too many lines."""
    return _long_files(house, house.files)


def find_long_test_files(house: House) -> list[str]:
    """Files of tests with too many lines."""
    return _long_files(house, house.tests)


def _long_files(house: House, files: list[Path]) -> list[str]:
    lengths = {path: path.read_text(encoding="utf-8").count("\n") for path in files}
    return [f"{house.place(path)} {lines}" for path, lines in lengths.items() if lines > MOST_LINES]


def find_long_functions(house: House) -> list[str]:
    """Functions of the library with too many lines, from ``def`` to the last, docstring included."""
    functions = [(path, name, node) for path in house.files for name, node in qualified_functions(house.tree(path))]
    lengths = [(path, name, node, node.end_lineno - node.lineno + 1) for path, name, node in functions]
    return [f"{house.place(p, n)} {name} {lines}" for p, name, n, lines in lengths if lines > MOST_FUNCTION_LINES]


def find_many_arguments(house: House) -> list[str]:
    """Functions of the library with too many arguments, ``self`` not counted, besides kernels and the excepted ones."""
    found = []
    for path in house.files:
        for name, node in qualified_functions(house.tree(path)):
            # A kernel's arguments are every pointer and stride that it reads.
            number = 0 if _is_kernel(node) else count_arguments(node)
            if number > MOST_ARGUMENTS and f"{house.module(path)}:{name}" not in MANY_ARGUMENTS:
                found.append(f"{house.place(path, node)} {name} {number}")
    return found


def _is_kernel(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(decorator) == "triton.jit" for decorator in node.decorator_list)


def count_arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the arguments of a function; ``self`` and ``cls`` are none."""
    names = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def find_forwardings(house: House) -> list[str]:
    """Arguments handed on under their own name, ``name=name``; a kernel's ``mask=mask`` hands nothing on."""
    return [
        f"{house.place(path, word.value)} {word.arg}"
        for path in house.files
        for node in house.nodes(path, ast.Call)
        for word in node.keywords
        if isinstance(word.value, ast.Name)
        and word.value.id == word.arg
        and (house.module(path).split(".")[1:2] != ["kernels"] or word.arg != "mask")
    ]


def find_circles(house: House) -> list[str]:
    """Groups of modules that import each other, directly or by others, when they are imported."""
    modules = {house.module(path): path for path in house.files}
    imports = {name: _imports(house, path, set(modules)) - {name} for name, path in modules.items()}
    reached = {name: _reach(name, imports) for name in modules}
    circles = {tuple(sorted(n for n in reached[name] if name in reached[n])) for name in modules}
    return sorted(" <-> ".join(circle) for circle in circles if circle)


def _imports(house: House, path: Path, modules: set[str]) -> set[str]:
    """Modules of the library that a file imports at its top; of ``from package import module`` the module only."""
    found = set()
    for node in imports_at_the_top(house.tree(path)):
        for name in set(names_of(node)) - {getattr(node, "module", "")}:
            # What is imported is a module or in one.
            found |= {next((m for m in (name, name.rpartition(".")[0]) if m in modules), name)} & modules
    return found


def _reach(name: str, imports: dict[str, set[str]]) -> set[str]:
    """All modules that importing one imports; itself only if it is in a circle."""
    reached, pending = set(), list(imports[name])
    while pending:
        module = pending.pop()
        if module not in reached:
            reached.add(module)
            pending.extend(imports[module])
    return reached


def find_imports_upwards(house: House) -> list[str]:
    """Imports, at the top or later, of a part of the library that is not below the importing one."""
    found = []
    for path in house.files:
        own = path.relative_to(house.package).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        parts = {part_of(module) for module in house.imported_modules(path)} - {None, own}
        found += [f"{house.place(path)} {part}" for part in sorted(parts) if _level(part) >= _level(own)]
    return found


def _level(part: str) -> int:
    """Level of a part; one without a place in the order is at the top."""
    return LEVELS.get(part, max(LEVELS.values()))


def find_vague_docstrings(house: House) -> list[str]:
    """Public functions and classes whose docstring's first line has no noun of the field.

    The first word of a function's is its verb; code and names in backticks are not looked at.
    """
    found = []
    for path in house.files:
        for node in house.tree(path).body:
            if isinstance(node, DEFINITIONS) and not node.name.startswith("_"):
                line = (ast.get_docstring(node) or "").partition("\n")[0]
                if not has_noun(line, verb_first=isinstance(node, FUNCTIONS)):
                    found.append(f"{house.place(path, node)} {node.name}: {line}")
    return found


def has_noun(line: str, *, verb_first: bool = False) -> bool:
    """Whether a line of English has a noun of the field, after its first word if that is a verb."""
    line = _NO_WORDS.sub("", line).strip()
    return _NOUN.search(line.partition(" ")[2] if verb_first else line) is not None


def find_private_names(house: House) -> list[str]:
    """Private names of the library that tests use: as an attribute, by an import, or as a string for a patch.

    A name is private to the library if it begins with one underscore and the library defines it. What a class of the
    test keeps on itself under such a name is its own.
    """
    private = {name for path in house.files for name in _private_definitions(house, path)} - DOCUMENTED_METHODS
    found = []
    for path in house.tests:
        own = _private_definitions(house, path)
        uses = {
            (node.lineno, name)
            for node in house.nodes(path, *_USES)
            for name in _private_uses(node, own)
            if name in private
        }
        found += [f"{house.place(path)}:{line} {name}" for line, name in sorted(uses) if name in private]
    return found


def _private_definitions(house: House, path: Path) -> set[str]:
    """Private names that a file defines: functions, classes, variables and attributes of ``self``."""
    stored = [node for node in house.nodes(path, ast.Name, ast.Attribute) if isinstance(node.ctx, ast.Store)]
    names = {node.name for node in house.nodes(path, *DEFINITIONS)}
    names |= {node.id for node in stored if isinstance(node, ast.Name)}
    names |= {node.attr for node in stored if isinstance(node, ast.Attribute) and _is_self(node.value)}
    return {name for name in names if _is_private(name)}


def _private_uses(node: ast.AST, own: set[str]) -> Iterator[str]:
    """Yield the private names that a node of a test uses, apart from what its own classes keep on themselves."""
    if isinstance(node, ast.Attribute) and _is_private(node.attr):
        if not (_is_self(node.value) and node.attr in own):
            yield node.attr
    elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "jitflow":
        yield from (alias.name for alias in node.names if _is_private(alias.name))
    elif isinstance(node, ast.Call) and _called(node) in ("getattr", "setattr", "delattr", "patch", "object"):
        words = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        yield from (name for name in (word.rpartition(".")[2] for word in words) if _is_private(name))


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and len(name) > 1


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def find_long_matches(house: House) -> list[str]:
    """Strings for ``match=`` in tests that hold a whole sentence of an error."""
    found = []
    for path in house.tests:
        words = [word for node in house.nodes(path, ast.Call) for word in node.keywords]
        for word in [word for word in words if word.arg == "match"]:
            strings = [n.value for n in ast.walk(word.value) if isinstance(n, ast.Constant)]
            text = "".join(string for string in strings if isinstance(string, str))
            if len(text) > MOST_LETTERS_MATCHED:
                found.append(f"{house.place(path, word.value)} {text}")
    return found
