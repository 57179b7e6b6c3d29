"""Bounds of the packages that jitflow needs, and the advice where one is missing."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from lowest_versions import lowest, small_requirements
from packaging.requirements import Requirement

from jitflow.apps.images.digit_judge import DigitJudge
from jitflow.apps.text.tokenizer.subword import tokenizers_library
from jitflow.cli import EXTRAS, main, missing_package
from jitflow.data.digits import all_digits
from jitflow.errors import ConfigError

ROOT = Path(__file__).parents[2]
# Names that a package is imported by, where they differ from its own.
IMPORTED = {"scikit-learn": "sklearn", "torch-fidelity": "torch_fidelity"}


def test_every_small_package_has_a_lower_bound_that_can_be_tested():
    pins = [lowest(requirement) for requirement in small_requirements()]
    assert {"safetensors", "jsonargparse", "numpy"} <= {pin.partition("==")[0] for pin in pins}
    with pytest.raises(ValueError, match="lower bound"):
        lowest(Requirement("numpy<3"))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib")
def test_the_advice_names_the_extra_that_brings_a_package():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    brought = {
        IMPORTED.get(Requirement(line).name, Requirement(line).name): extra
        for extra, lines in extras.items()
        if extra not in ("dev", "docs")
        for line in lines
    }
    assert brought == EXTRAS


class Without:
    """Finds no module of a package, as where it is not installed."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


NEEDED = {"sklearn": (all_digits, DigitJudge), "tokenizers": (tokenizers_library,)}
USES = [(name, use) for name, uses in NEEDED.items() for use in uses]


@pytest.mark.parametrize(("name", "use"), USES)
def test_a_broken_package_is_not_called_missing(monkeypatch, tmp_path, name, use):
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    all_digits.cache_clear()
    monkeypatch.syspath_prepend(tmp_path)
    # A library of C that is missing, a name that another version has, and a missing package of the package.
    failures = {
        "libgomp": "raise ImportError('no libgomp\\n')",
        "gone": "from json import gone",
        "absent": "import absent",
    }
    for reason, line in failures.items():
        (tmp_path / f"{name}.py").write_text(line)
        importlib.invalidate_caches()
        with pytest.raises(ConfigError, match=f"{name} is installed, but") as error:
            use()
        assert reason in str(error.value) and "\n" not in str(error.value)
    monkeypatch.setattr(sys, "meta_path", [Without(name), *sys.meta_path])
    with pytest.raises(ConfigError, match=r"pip install 'jitflow\["):
        use()


@pytest.mark.parametrize("name", ["scipy", "scipy.linalg", "torch_fidelity", "numpy"])
def test_a_missing_package_is_one_line_with_the_way_out(monkeypatch, capsys, name):
    def fail(*args):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", fail)
    assert main(["models"]) == 1
    top = name.split(".")[0]
    assert capsys.readouterr().err == f"error: {missing_package(top)}\n"
    assert ("jitflow[eval]" in str(missing_package(top))) == (top in EXTRAS)


def test_a_package_that_fails_inside_a_command_is_one_line(monkeypatch, capsys):
    def fail(*args):
        raise ImportError("cannot import name 'linalg' from 'scipy'", name="scipy")

    monkeypatch.setattr("importlib.import_module", fail)
    assert main(["models"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "scipy" in line and "linalg" in line and "pip install" not in line
