"""Recipes and records that ask for hours or gigabytes, or for the code of a package that nobody has allowed."""

from __future__ import annotations

import sys

import pytest
import yaml
from limits import limits

from jitflow import cli
from jitflow.apps.images.shards import open_shard_folder
from jitflow.apps.text.files import TextFiles
from jitflow.checkpoint.folder import CheckpointFolder
from jitflow.errors import ConfigError, DataError
from jitflow.io.files import read_json
from jitflow.io.yaml_file import parse_yaml, read_yaml
from jitflow.run.fit import fit
from jitflow.run.recipe import build, check_classes, find_class

DEEP = "[" * 50_000 + "]" * 50_000


def aliases(first, again):
    """A text of ten aliases of ten aliases of ... : 10^12 values."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{i}: &a{i} {again(f'*a{i - 1}')}" for i in range(1, 13)]
    return "\n".join(lines) + "\n"


YAML = {
    "lists": aliases("[x, x, x, x]", lambda a: f"[{', '.join([a] * 10)}]"),
    "maps": aliases("{a: 1}", lambda a: "{" + ", ".join(f"{c}: {a}" for c in "abcdefghij") + "}"),
    "merged": aliases("{a: 1}", lambda a: f"{{<<: [{', '.join([a] * 10)}]}}"),
    "itself": "model: &m {init_args: *m}\n",
    "depth": DEEP[:5000] + DEEP[-5000:],
    "digits": "a: " + "9" * 10_000 + "\n",
    "base 60": "a: 1" + ":10" * 20_000 + "\n",
    "length": "a: [" + "x, " * 60_000 + "x]\n",
    "date": "a: 2024-13-45\n",
    "tag": "a: !!bool maybe\n",
    "tag of a date": "a: !!timestamp x\n",
    "key": "? [a]\n: b\n",
    "surrogate": 'a: "\\ud800"\n',
}


@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
def test_yaml_is_one_error_within_limits(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with limits(), pytest.raises(ConfigError, match=r"a\.yaml is not valid YAML") as caught:
        read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)


def test_aliases_and_merging_in_measure_are_read():
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\n"
    assert parse_yaml(text) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": [{"x": 1, "y": 2}] * 2}
    with pytest.raises(yaml.YAMLError):
        parse_yaml(YAML["itself"])


@pytest.mark.parametrize("name", ["lists", "itself", "depth", "tag"])
def test_commands_refuse_such_a_recipe_and_such_a_value_in_one_line(tmp_path, capsys, name):
    (tmp_path / "a.yaml").write_text(YAML[name])
    value = YAML[name].strip().replace("\n", ", ")
    for words in (
        ["train", "--config", str(tmp_path / "a.yaml"), "--dry_run"],
        ["train", "--config", "images/digits", "--dry_run", f"--model.net_settings={{{value}}}"],
    ):
        with limits():
            assert cli.main(words) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and len(line) < 12_000


JSON = {"depth": DEEP, "digits": '{"a": ' + "9" * 6000 + "}", "values": "[" + "[]," * 3_100_000 + "[]]"}


@pytest.mark.parametrize("text", JSON.values(), ids=JSON)
def test_json_is_one_error_within_limits(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with limits(), pytest.raises(ConfigError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_half_of_a_pair_in_json_can_be_written_again(tmp_path):
    (tmp_path / "a.json").write_text('{"a\\udfff": ["\\ud800 x", "\\ud83d\\ude00"]}')
    assert read_json(tmp_path / "a.json") == {"a\ufffd": ["\ufffd x", "\U0001f600"]}


def test_a_manifest_of_great_depth_is_ignored_with_a_warning(tmp_path, caplog):
    (tmp_path / "manifest.json").write_text(DEEP)
    assert CheckpointFolder(tmp_path).records() == {}
    assert "nested too deeply" in caplog.text


def test_shards_with_such_a_manifest_are_one_error(tmp_path):
    (tmp_path / "manifest.json").write_text(DEEP)
    with pytest.raises(DataError, match=r"manifest\.json"):
        open_shard_folder(tmp_path)


def test_a_record_of_a_corpus_is_left_out_or_one_error(tmp_path):
    (tmp_path / "a.jsonl").write_text(f"{DEEP}\n{JSON['digits']}\n" + '{"text": "words"}\n')
    source = TextFiles(tmp_path / "a.jsonl")
    assert "".join(source.texts()).strip() == "words" and source.num_bad == 2
    (tmp_path / "b.json").write_text(f"[{DEEP}]")
    with limits(), pytest.raises(DataError, match=r"b\.json"):
        list(TextFiles(tmp_path / "b.json").texts())


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module in the working folder that leaves a mark when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evilmod", raising=False)
    (tmp_path / "evilmod.py").write_text("open('EXECUTED', 'w').close()\nclass X: pass\ndef f(x): return x\n")
    yield tmp_path / "EXECUTED"
    sys.modules.pop("evilmod", None)


RECIPE = "model: {{class_path: {model}}}\ndata: {{class_path: jitflow.data.digits.DigitsDataModule}}\n{more}\n"
CASES = {
    "model": RECIPE.format(model="evilmod.X", more=""),
    "data": "model: {class_path: jitflow.apps.images.module.JiTLightningModule}\ndata: {class_path: evilmod.X}\n",
    "nested": RECIPE.format(model="jitflow.JiTLightningModule", more="trainer: {callbacks: [{class_path: evilmod.X}]}"),
    "by name": RECIPE.format(model="jitflow.JiTLightningModule", more="trainer: {logger: evilmod.X}"),
}


@pytest.mark.parametrize("text", CASES.values(), ids=CASES)
def test_a_recipe_imports_no_package_that_nobody_allowed(evil, tmp_path, capsys, text):
    (tmp_path / "a.yaml").write_text(text)
    assert cli.main(["train", "--config", "a.yaml", "--dry_run"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "evilmod.X" in line and "--allow_import evilmod" in line
    assert not evil.exists() and "evilmod" not in sys.modules


def test_with_the_permission_it_is_imported_and_judged(evil, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(CASES["model"])
    assert cli.main(["train", "--config", "a.yaml", "--dry_run", "--allow_import", "evilmod"]) == 1
    assert evil.exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert "--model must be the name of a subclass of FlowModule" in line
    # The permission ends with the command.
    evil.unlink()
    del sys.modules["evilmod"]
    assert cli.main(["train", "--config", "a.yaml", "--dry_run"]) == 1
    assert not evil.exists()


def test_a_class_of_a_command_line_is_allowed_by_being_typed(evil, capsys):
    words = ["train", "--config", "images/digits", "--model", "evilmod.X", "--dry_run"]
    assert cli.main(words) == 1
    assert "subclass of FlowModule" in capsys.readouterr().err
    assert evil.exists()


@pytest.mark.parametrize("path", ["subprocess.Popen", "builtins.dict", "os.system", "", "Net", "a b.C"])
def test_other_classes_are_refused_before_they_are_imported(path):
    with pytest.raises(ConfigError, match=r"allow_import|dotted name"):
        find_class({"class_path": path})
    with pytest.raises(ConfigError, match=r"allow_import|dotted name"):
        check_classes({"data": [{"class_path": path}]})


def test_a_name_that_a_module_has_imported_is_no_class_of_it():
    with pytest.raises(ConfigError, match="--allow_import pathlib"):
        find_class({"class_path": "jitflow.run.fit.Path"})
    sizes = {"in_features": 1, "out_features": 2}
    assert build({"class_path": "torch.nn.Linear", "init_args": sizes}).out_features == 2


def test_a_permission_names_a_package(capsys):
    assert cli.main(["train", "--config", "images/digits", "--dry_run", "--allow_import", "../x"]) == 1
    assert "--allow_import" in capsys.readouterr().err


def test_the_python_call_takes_the_permission_too(evil, tmp_path):
    recipe = yaml.safe_load(CASES["model"])
    with pytest.raises(ConfigError, match="allow_import"):
        fit(recipe, tmp_path / "run")
    assert not evil.exists()
    with pytest.raises(ConfigError, match="must be a FlowModule"):
        fit(recipe, tmp_path / "run", allow_import=["evilmod"])
