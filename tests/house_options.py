"""The options of the command line, read from the source: signatures of commands and arguments of parsers.

A word given by its place, such as a checkpoint, is no option, nor is a dotted one, such as ``--model.learning_rate`` or
``--sampling.steps``, with its section (``--model``, an argument whose class is named ``...Options``).
"""

from __future__ import annotations

import ast

from house_source import FUNCTIONS, Function, House


def find_options(house: House) -> list[str]:
    """List every option as somebody types it: ``jitflow sample --steps``."""
    return [f"{command} --{name}" for command, names in options_by_command(house).items() for name in names]


def options_by_command(house: House) -> dict[str, list[str]]:
    """Read the options of every command: the verbs, the general judge, then what the applications add."""
    general = _value(house, "jitflow.verbs.evaluate", "GENERAL_JUDGE")
    judge = {"jitflow evaluate, of images": _fields(house, *ast.literal_eval(general).split(":"))}
    return {**_of_verbs(house), **judge, **_of_applications(house)}


def _of_verbs(house: House) -> dict[str, list[str]]:
    table = _value(house, "jitflow.cli", "VERBS")
    assert isinstance(table, ast.Dict)
    found: dict[str, list[str]] = {}
    for key, verb in zip(table.keys, table.values, strict=True):
        # The verbs of the applications, ``**{...}``, follow with their commands.
        if key is None:
            continue
        name, module, function = (ast.literal_eval(node) for node in (key, *verb.args[:2]))
        found.update(_of_verb(house, f"jitflow {name}", module, function))
    return found


def _of_verb(house: House, name: str, module: str, function_name: str) -> dict[str, list[str]]:
    """Find the commands that the function of a verb hands to ``run_command`` or ``run_group``."""
    entry = _function(house, module, function_name)
    known = {node.name: node for node in house.tree(house.path(module)).body if isinstance(node, FUNCTIONS)}
    known.update({node.name: node for node in ast.walk(entry) if isinstance(node, FUNCTIONS)})
    found: dict[str, list[str]] = {}
    for call in [node for node in ast.walk(entry) if isinstance(node, ast.Call)]:
        words = {word.arg: word.value for word in call.keywords}
        kind = getattr(call.func, "id", "")
        if kind == "run_command":
            command = f"jitflow {call.args[0].value}" if isinstance(call.args[0], ast.Constant) else name
            for function in [known[inner] for inner in _names(call.args[1]) if inner in known]:
                found[command] = _options(function, by_place="positional" not in words)
        elif kind == "run_group" and not isinstance(call.args[1], ast.Dict):
            # Those of the applications, which follow.
            return {}
        elif kind == "run_group":
            positional = ast.literal_eval(words["positional"]) if "positional" in words else ()
            for key, value in zip(call.args[1].keys, call.args[1].values, strict=True):
                found[f"{name} {key.value}"] = _options(known[value.id], by_place=key.value in positional)
    return found or {name: _parser_options(house, module, name)}


def _names(node: ast.expr) -> list[str]:
    """Names in an expression; of ``choose(args) or general`` not the function that chooses."""
    called = {id(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)}
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and id(part) not in called]


def _of_applications(house: House) -> dict[str, list[str]]:
    table = ast.literal_eval(_value(house, "jitflow.applications", "BUILT_IN"))
    found = {}
    for name, path in table.items():
        module, _, variable = path.partition(":")
        application = {word.arg: word.value for word in _value(house, module, variable).keywords}
        if "documented" in application:
            documented = {word.arg: word.value for word in _value(house, module, application["documented"].id).keywords}
            of_the_run = _value(house, "jitflow.verbs.documented", "_OF_THE_RUN")
            words = [*documented["options"].keys, *of_the_run.keys]
            found[f"jitflow {name} train"] = [ast.literal_eval(word) for word in words]
        for field, verb in (("commands", name), ("data_commands", "data")):
            commands = _strings(application[field]) if field in application else {}
            for command, where in commands.items():
                function = _function(house, *where.split(":"))
                found[f"jitflow {verb} {command}"] = _options(function, by_place=field == "data_commands")
        if "judge" in application:
            found[f"jitflow evaluate, of {name}"] = _fields(house, *ast.literal_eval(application["judge"]).split(":"))
    return found


def _fields(house: House, module: str, name: str) -> list[str]:
    """Fields of a dataclass that are options, no sections; those of its bases in the library first."""
    tree = house.tree(house.path(module))
    owner = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    found = []
    for base in owner.bases:
        froms = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        homes = [node.module for node in froms if any(alias.name == base.id for alias in node.names)]
        found += _fields(house, homes[0] if homes else module, base.id)
    own = [node for node in owner.body if isinstance(node, ast.AnnAssign)]
    return found + [node.target.id for node in own if not ast.unparse(node.annotation).endswith("Options")]


def _options(function: Function, *, by_place: bool) -> list[str]:
    """Parameters of a command that are options; required ones are not where they are given by place, nor sections."""
    positional = [*function.args.posonlyargs, *function.args.args]
    by_place = by_place or bool(function.args.posonlyargs)
    required = len(positional) - len(function.args.defaults)
    # The only required argument of a command is given by place if it is a list, such as one of files.
    is_list = required == 1 and ast.unparse(positional[0].annotation or ast.Constant("")).startswith("list[")
    required = required if by_place or is_list else 0
    arguments = [*positional[required:], *function.args.kwonlyargs]
    return [argument.arg for argument in arguments if not _is_section(argument) and argument.arg != "further"]


def _is_section(argument: ast.arg) -> bool:
    return argument.annotation is not None and ast.unparse(argument.annotation).endswith("Options")


def _parser_options(house: House, module: str, name: str) -> list[str]:
    """Options that are added to a parser by name, in a module or in those beside it that it imports."""
    package = f"{module.rpartition('.')[0]}."
    beside = {path for path in map(house.path, house.imported_modules(house.path(module))) if path.is_file()}
    files = [house.path(module), *sorted(path for path in beside if house.module(path).startswith(package))]
    calls = [call for path in files for call in house.nodes(path, ast.Call)]
    added = [call for call in calls if getattr(call.func, "attr", "") == "add_argument"]
    assert added, f"{name} hands no function to run_command or run_group and makes no parser"
    words = [node.value for call in added for node in call.args if isinstance(node, ast.Constant)]
    return [word[2:] for word in words if word.startswith("--") and "." not in word]


def _function(house: House, module: str, name: str) -> Function:
    return next(n for n in house.tree(house.path(module)).body if isinstance(n, FUNCTIONS) and n.name == name)


def _value(house: House, module: str, name: str) -> ast.expr:
    """What a module assigns to a name."""
    assigned = [node for node in house.tree(house.path(module)).body if isinstance(node, ast.Assign)]
    return next(node.value for node in assigned if ast.unparse(node.targets[0]) == name)


def _strings(node: ast.expr) -> dict[str, str]:
    """Evaluate a dictionary of strings, written out or as a comprehension over strings; no name has a meaning in it."""
    value: dict[str, str] = eval(compile(ast.Expression(node), "commands", "eval"), {"__builtins__": {}})
    return value
