"""Bounds of the packages that jitflow needs, and the advice where one is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from lowest_versions import lowest, small_requirements
from packaging.requirements import Requirement

from jitflow.cli import EXTRAS, main, missing_package

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


@pytest.mark.parametrize("name", ["scipy", "scipy.linalg", "torch_fidelity", "numpy"])
def test_a_missing_package_is_one_line_with_the_way_out(monkeypatch, capsys, name):
    def fail(*args):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", fail)
    assert main(["models"]) == 1
    top = name.split(".")[0]
    assert capsys.readouterr().err == f"error: {missing_package(top)}\n"
    assert ("jitflow[eval]" in str(missing_package(top))) == (top in EXTRAS)
