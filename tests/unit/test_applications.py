"""The table of applications: names, class paths of before, and packages that bring one of their own."""

import importlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from forked_python import forked_python

from jitflow.applications import (
    BUILT_IN,
    FORMER_CLASSES,
    application_name,
    get_application,
    list_applications,
    load_object,
)
from jitflow.errors import ConfigError
from jitflow.run.recipe import find_class, find_recipe

ROOT = Path(__file__).parents[2]
TOY = """
from dataclasses import replace
from jitflow.apps.images.application import IMAGES
from jitflow.apps.images.module import JiTLightningModule

class ToyModule(JiTLightningModule):
    application = "toy"

TOY = replace(IMAGES, name="toy", module=ToyModule)
"""


def test_names_stand_for_themselves_and_class_paths_for_their_application():
    for name in BUILT_IN:
        assert application_name(name) == name
    assert application_name("toy") == "toy"
    assert application_name("jitflow.apps.text.module.TextLightningModule") == "text"
    for recorded in ("", "mine.Net", "jitflow.apps.imagesque.Net", "jitflow.training.module.FlowModule"):
        assert application_name(recorded) == "images"
        assert application_name(recorded, default="") == ""


@pytest.mark.parametrize(("former", "current"), FORMER_CLASSES.items())
def test_a_former_class_path_leads_to_a_class_that_is_there(former, current):
    module, _, name = current.rpartition(".")
    assert hasattr(importlib.import_module(module), name)
    assert application_name(former, default="") == application_name(current, default="") in BUILT_IN


def test_an_unknown_name_is_one_error_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean images"):
        get_application("image")


def package(folder, name="toy", code=TOY, entry="toy = toy:TOY", distribution=None):
    """Put an installed package into a folder: a module and what `pip` writes about it."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(textwrap.dedent(code))
    about = folder / f"{distribution or name}-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution or name}\nVersion: 0\n")
    (about / "entry_points.txt").write_text(f"[jitflow.applications]\n{entry}\n")
    return folder


def python(cwd, *words, path=(), program=sys.executable):
    """Run Python in a folder; the checkout and further folders are on its PYTHONPATH."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT])), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [program, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


LIST = """
import sys
from jitflow.applications import list_applications
print(*list_applications())
assert not {"toy", "torch"} & set(sys.modules)
"""
GET = """
import sys
from jitflow.applications import get_application
from jitflow.errors import JitflowError
before = sys.path[:]
try:
    found = get_application("toy")
except JitflowError as error:
    print(type(error).__name__, error)
else:
    print(found.name, found.module.__module__, sys.modules[found.module.__module__].__file__)
assert sys.path == before
"""


def said(done):
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_installed_package_is_listed_without_import_and_imported_when_named(tmp_path):
    site = package(tmp_path / "site")
    listed = said(python(tmp_path, "-c", LIST, path=[site])).split()
    assert listed == [*BUILT_IN, "toy"]
    assert said(python(tmp_path, "-c", GET, path=[site], program=forked_python())) == f"toy toy {site / 'toy.py'}"


def test_nothing_is_taken_from_the_working_folder_unless_pythonpath_names_it(tmp_path):
    here = package(tmp_path / "here")
    assert said(python(here, "-c", LIST)).split() == list(BUILT_IN)
    assert said(python(here, "-c", GET, program=forked_python())).startswith("ConfigError unknown application 'toy'")
    # A script's folder is where Python looks first as well.
    (here / "script.py").write_text(LIST)
    assert said(python(here, "script.py")).split() == list(BUILT_IN)
    assert said(python(here, "-c", LIST, path=[here])).split() == [*BUILT_IN, "toy"]
    assert said(python(here, "-c", GET, path=["."], program=forked_python())) == f"toy toy {here / 'toy.py'}"


@pytest.mark.slow
def test_the_command_line_loads_a_plug_ins_checkpoint_only_where_it_is_installed(tmp_path):
    site = package(tmp_path / "site")
    save = """
    import torch, toy
    module = toy.ToyModule("JiT-N/4", 8, 2, net_settings={"depth": 1, "hidden_size": 8, "num_heads": 2,
        "bottleneck_dim": 4, "in_context_len": 0, "in_context_start": 0}, num_sampling_steps=2)
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, "toy.ckpt")
    """
    said(python(tmp_path, "-c", textwrap.dedent(save), path=[site]))
    sample = ("-m", "jitflow", "sample", str(tmp_path / "toy.ckpt"), "--labels", "0", "--out", str(tmp_path / "out"))
    refused = python(site, *sample)
    assert refused.returncode == 1 and refused.stderr.startswith("error: "), refused.stderr
    assert "'toy'" in refused.stderr and "install the package" in refused.stderr and refused.stderr.count("\n") == 1
    said(python(tmp_path, *sample, path=[site]))
    assert list((tmp_path / "out").glob("*_seed0.png"))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages, not the working folder."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, which Python looks into first, as `python -m` has it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "here"), *sys.path])
    return tmp_path / "here"


def test_a_module_in_the_working_folder_does_not_stand_in_for_the_installed_one(site, here):
    package(site, "hidden_toy", TOY, "toy = hidden_toy:TOY")
    (here / "hidden_toy.py").write_text("raise RuntimeError('code of the working folder ran')")
    get_application("toy")
    assert sys.modules["hidden_toy"].__file__ == str(site / "hidden_toy.py")
    assert sys.path[0] == str(here)


def test_a_module_in_the_working_folder_does_not_complete_an_installed_package(site, here):
    package(site, "half_toy", TOY, "toy = half_toy:TOY")
    (site / "half_toy.py").rename(here / "half_toy.py")
    with pytest.raises(ConfigError, match=r"package half_toy .*ModuleNotFoundError"):
        get_application("toy")
    assert "half_toy" not in sys.modules


def test_a_package_installed_as_editable_works_in_its_own_folder(here):
    package(here, "editable_toy", TOY, "toy = editable_toy:TOY")
    with pytest.raises(ConfigError, match="unknown application"):
        get_application("toy")
    # An installation adds the folder behind the standard library, by a .pth file.
    sys.path.append(str(here))
    get_application("toy")
    assert sys.modules["editable_toy"].__file__ == str(here / "editable_toy.py")


def test_a_class_of_a_package_never_comes_from_the_working_folder(site, here):
    package(site, "painted_toy", "class Net: pass", "toy = painted_toy:TOY")
    (here / "painted_toy.py").write_text("raise RuntimeError('code of the working folder ran')")
    (here / "my_own.py").write_text("class Net: pass")
    assert find_class({"class_path": "painted_toy.Net"}).__module__ == "painted_toy"
    assert load_object("painted_toy:Net") is sys.modules["painted_toy"].Net
    # A class that the user names is the user's business.
    assert find_class({"class_path": "my_own.Net"}, allow_import=["my_own"]).__module__ == "my_own"


def test_a_broken_package_leaves_the_recipes_of_the_others(site):
    package(site, "bare_toy", entry="toy = bare_toy:TOY")
    (site / "bare_toy.py").unlink()
    assert find_recipe("images/digits").is_file()
    with pytest.raises(ConfigError, match="toy"):
        find_recipe("toy/tiny")


@pytest.mark.parametrize(
    ("name", "code", "entry"),
    [
        ("broken_toy", "import no_such_library", "toy = broken_toy:TOY"),
        ("failing_toy", "1 / 0", "toy = failing_toy:TOY"),
        ("empty_toy", "", "toy = empty_toy:TOY"),
        ("plain_toy", "TOY = {'name': 'toy'}", "toy = plain_toy:TOY"),
        ("other_toy", TOY, "tin = other_toy:TOY"),
        ("dotted_toy", TOY, "toy.v2 = dotted_toy:TOY"),
        ("nameless_toy", TOY.replace('application = "toy"', "pass"), "toy = nameless_toy:TOY"),
    ],
)
def test_a_broken_package_is_one_error_that_names_it(site, name, code, entry):
    package(site, name, code, entry, distribution=name.replace("_", "-"))
    application = entry.partition(" ")[0]
    assert application in list_applications()
    for _ in range(2):
        with pytest.raises(ConfigError) as error:
            get_application(application)
        assert f"package {name.replace('_', '-')}" in str(error.value) and "\n" not in str(error.value)


def test_built_in_names_win(site):
    package(site, "thief", "raise SystemExit", "images = thief:TOY")
    assert list_applications().count("images") == 1
    assert get_application("images").module.__module__ == "jitflow.apps.images.module"
    assert "thief" not in sys.modules


def test_two_packages_with_one_name_are_an_error(site):
    package(site, "first_toy", TOY, "toy = first_toy:TOY")
    package(site, "second_toy", TOY, "toy = second_toy:TOY")
    with pytest.raises(ConfigError, match="first_toy and second_toy"):
        get_application("toy")
    assert not {"first_toy", "second_toy"} & set(sys.modules)
