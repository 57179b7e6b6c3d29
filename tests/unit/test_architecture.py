"""Rules of the house that no single file can keep on its own."""

import ast
import subprocess
import sys

import pytest
from house_source import LEVELS, ROOT, House, part_of

from jitflow.applications import BUILT_IN

HOUSE = House(ROOT)
PACKAGE, FILES = HOUSE.package, HOUSE.files
IDS = [str(path.relative_to(PACKAGE)) for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_dependencies_point_one_way(path):
    relative = path.relative_to(PACKAGE)
    own = relative.parts[0].removesuffix(".py")
    if own == "__init__":
        return
    assert own in LEVELS, f"{own} has no place in the order of dependencies"
    for part in {part_of(module) for module in HOUSE.imported_modules(path)} - {None, own}:
        assert LEVELS[part] < LEVELS[own], f"{relative} imports {part}"


@pytest.mark.parametrize("path", [path for path in FILES if path.is_relative_to(PACKAGE / "apps")], ids=str)
def test_no_application_imports_another(path):
    own = path.relative_to(PACKAGE / "apps").parts[0]
    others = {path.name for path in (PACKAGE / "apps").iterdir() if path.is_dir()} - {own, "__pycache__"}
    words = [module.split(".") for module in HOUSE.imported_modules(path)]
    assert not [w for w in words if w[:2] == ["jitflow", "apps"] and len(w) > 2 and w[2] in others]


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name in ("training", "checkpoint")], ids=str)
def test_training_and_checkpoints_name_no_application(path):
    words = [node.value for node in HOUSE.nodes(path, ast.Constant)]
    assert not set(words) & set(BUILT_IN)
    assert not [word for word in words if isinstance(word, str) and "jitflow.apps." in word]


def test_the_rule_sees_every_package():
    found = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES} - {"__init__"}
    assert {"core", "kernels", "layers", "nets", "codec", "data", "training", "callbacks", "apps"} <= found
    seen = {part_of(module) for path in FILES for module in HOUSE.imported_modules(path)}
    assert {"core", "errors", "io", "pictures", "training"} <= seen


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_one_lightning_and_no_print(path):
    assert not [m for m in HOUSE.imported_modules(path) if m.split(".")[0] == "pytorch_lightning"]
    calls = [node for node in HOUSE.nodes(path, ast.Call) if isinstance(node.func, ast.Name)]
    assert "print" not in [call.func.id for call in calls]


@pytest.mark.parametrize("package", ["core", "layers", "nets"])
def test_mathematics_and_networks_need_torch_only(package):
    foreign = {
        module.split(".")[0] for path in (PACKAGE / package).rglob("*.py") for module in HOUSE.imported_modules(path)
    } - set(sys.stdlib_module_names)
    assert foreign <= {"jitflow", "torch"}


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)


@pytest.mark.parametrize(
    "code",
    [
        "import jitflow; dir(jitflow)",
        "from jitflow.cli import main; assert main(['--help']) == 0",
        "from jitflow.cli import main; assert main(['--version']) == 0",
        "from jitflow.cli import main; assert main(['trian']) == 1",
        "from jitflow.cli import main; assert main(['train', '--config', 'images/jit_b61']) == 1",
        "from jitflow.cli import main; assert main(['train', '--config', 'no/such.yaml']) == 1",
    ],
)
def test_help_answers_without_torch(code):
    done = run(
        f"{code}\nimport sys\n"
        "heavy = {'torch', 'lightning', 'numpy', 'jsonargparse', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert done.returncode == 0, done.stderr
    if "trian" in code:
        assert done.stderr.startswith("error: unknown verb 'trian'; did you mean train?")
        assert done.stderr.count("\n") == 1


def test_networks_do_without_lightning():
    done = run("import sys, jitflow\njitflow.list_models()\nassert 'lightning' not in sys.modules")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["models", "datas", "callbacks"])
def test_documented_packages_hold_re_exports_only(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        assert len(path.read_text(encoding="utf-8").splitlines()) < 20, path
        docstring, *rest = HOUSE.tree(path).body
        assert isinstance(docstring, ast.Expr), path
        for node in rest:
            if isinstance(node, ast.Assign):
                assert [target.id for target in node.targets] == ["__all__"], path
            else:
                assert isinstance(node, ast.ImportFrom), path
                assert node.module.split(".")[0] in ("jitflow", folder), path


def test_every_file_says_what_it_is():
    for path in FILES:
        assert ast.get_docstring(HOUSE.tree(path)), path
