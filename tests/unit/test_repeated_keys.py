"""A key that is given twice in a settings file is one line that names it, wherever such a file is read."""

from __future__ import annotations

import logging

import pytest
import yaml

from jitflow import cli
from jitflow.errors import ConfigError
from jitflow.export.model_card import find_data
from jitflow.inspect.info import describe_path
from jitflow.io.files import read_json
from jitflow.io.yaml_file import read_yaml
from jitflow.run.recipe import find_recipe, list_recipes, read_recipe
from jitflow.run.start import recorded_recipe

REPEATED = {
    "outermost": ("model: {}\ndata: {}\nmodel: {a: 1}\n", "model", 1, 3),
    "nested": ("data:\n  init_args:\n    size: 1\n    # why\n    size: 1\n", "size", 3, 5),
    "one line": ("a: 1\nb: {c: 1, d: 2, c: 3}\n", "c", 2, 2),
    "in a list": ("a:\n- {b: 1}\n- c: 1\n  c: 2\n", "c", 3, 4),
    "quoted": ("a: 1\n'a': 2\n", "a", 1, 2),
    "after an anchor": ("a: &x {k: 1}\nb:\n  <<: *x\n  k: 2\n  k: 3\n", "k", 4, 5),
    "empty": ("lr: 1\nlr:\n", "lr", 1, 2),
    "a number": ("1: a\n1: b\n", "1", 1, 2),
}
READERS = {
    "recipe": read_recipe,
    "info": describe_path,
    "file": read_yaml,
    "run of an earlier version": lambda path: recorded_recipe(path.parent, None),
}


def said(line, key, first, second):
    return f"key '{key}' is given twice, in lines {first} and {second};" in line and "\n" not in line


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", REPEATED)
def test_every_reader_names_the_key_and_both_lines(tmp_path, kind, reader):
    text, *where = REPEATED[kind]
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml") as error:
        READERS[reader](path)
    assert said(str(error.value), *where)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a: {k: 1}\nb: {k: 2}\n", {"a": {"k": 1}, "b": {"k": 2}}),
        ("a: &x {k: 1, l: 1}\nb: {<<: *x, k: 2}\n", {"a": {"k": 1, "l": 1}, "b": {"k": 2, "l": 1}}),
        ("b: {c: &y {<<: &x {k: 1}, k: 2}}\nd: {<<: *y, k: 3}\n", {"b": {"c": {"k": 2}}, "d": {"k": 3}}),
        ("a: 1\nA: 2\n1: 3\n'1': 4\n", {"a": 1, "A": 2, 1: 3, "1": 4}),
        ("", None),
    ],
)
def test_other_texts_are_read_as_ever(tmp_path, text, meant):
    (tmp_path / "a.yaml").write_text(text)
    assert read_yaml(tmp_path / "a.yaml") == meant == yaml.safe_load(text)


@pytest.mark.parametrize("name", list_recipes())
def test_own_recipes_are_read_as_by_the_library(name):
    assert read_yaml(find_recipe(name)) == yaml.safe_load(find_recipe(name).read_text())


@pytest.mark.parametrize("option", ["--config", "--trainer", "--data"])
def test_training_refuses_it_before_a_folder_is_made(tmp_path, monkeypatch, capsys, option):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("max_epochs: 1\n\nmax_epochs: 2\n")
    recipe = [] if option == "--config" else ["--config", "images/digits"]
    assert cli.main(["train", *recipe, option, "a.yaml", "--run_dir", "r"]) == 1
    assert said(capsys.readouterr().err.strip().splitlines()[-1], "max_epochs", 1, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]


def test_values_of_options_are_checked_too(capsys):
    assert cli.main(["train", "--config", "images/digits", "--logging.wandb", "{a: 1, a: 2}", "--dry_run"]) == 1
    assert "--logging.wandb" in capsys.readouterr().err


def test_an_export_goes_on_and_says_so(tmp_path, caplog):
    (tmp_path / "config.yaml").write_text("data: {}\ndata: {a: 1}\n")
    with caplog.at_level(logging.WARNING):
        assert find_data(tmp_path / "a.ckpt", {}) is None
    assert said(caplog.messages[0].replace(str(tmp_path), ""), "data", 1, 2)


def test_a_list_of_runs_goes_on_and_says_so(tmp_path, caplog, capsys):
    (tmp_path / "r" / "checkpoints").mkdir(parents=True)
    (tmp_path / "r" / "environment.json").write_text("{}")
    (tmp_path / "r" / "config.yaml").write_text("seed: 0\nseed: 1\n")
    with caplog.at_level(logging.WARNING):
        assert cli.main(["runs", str(tmp_path)]) == 0
    assert any(said(message, "seed", 1, 2) for message in caplog.messages), caplog.messages


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"b": [{"a": 1, "c": 0, "a": 1}]}'])
def test_json_names_the_key(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigError, match=r"run\.json .*'a' is given twice"):
        read_json(tmp_path / "run.json")
