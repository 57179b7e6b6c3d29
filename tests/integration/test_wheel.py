"""The wheel, installed outside of the checkout, is the library and nothing else."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from forked_python import forked_python

import jitflow

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)
pytest.importorskip("setuptools", reason="builds without the network, by the setuptools that is here")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # Built from a copy: what an earlier build left in the checkout would go in as well.
    source = folder / "source"
    shutil.copytree(ROOT / "jitflow", source / "jitflow", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # setuptools of this environment: building shall not need the network.
    words = ["wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", str(folder), str(source)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, timeout=600)
    (path,) = folder.glob("jitflow-*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    words = ["install", "--no-deps", "--no-index", "--quiet", "--target", str(folder), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, timeout=600)
    return folder


def run(site, cwd, *words, program=sys.executable):
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run([program, *words], capture_output=True, text=True, cwd=cwd, env=environment, timeout=600)


def test_one_name_and_every_file(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"jitflow", f"jitflow-{jitflow.__version__}.dist-info"}
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "jitflow").rglob("*.py")}
    recipes = {p.relative_to(ROOT).as_posix() for p in (ROOT / "jitflow" / "apps").rglob("*.yaml")}
    assert recipes and recipes | {"jitflow/py.typed"} <= set(names)
    assert {name for name in names if name.endswith(".py")} == sources
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_works_elsewhere(site, tmp_path):
    done = run(site, tmp_path, "-c", "import jitflow; print(jitflow.__file__)")
    assert Path(done.stdout.strip()).is_relative_to(site), done.stderr
    done = run(site, tmp_path, "-m", "jitflow", "--version")
    assert done.stdout == f"jitflow {jitflow.__version__}\n"
    # By name, from the wheel: there is no checkout around.
    words = ["train", "--config", "images/digits", "--print_config"]
    done = run(site, tmp_path, "-m", "jitflow", *words, program=forked_python())
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["model"]
    assert run(site, tmp_path, "-c", "import callbacks, datas, models").returncode == 1


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == jitflow.__version__ and citation["license"] == "MIT"
    assert re.fullmatch(r"1\.2\.\d", citation["cff-version"]) and citation["authors"]
