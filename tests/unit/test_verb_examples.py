"""The example of every verb: shown by its help, and understood by its parser."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jitflow import cli
from jitflow.applications import BUILT_IN as APPLICATIONS
from jitflow.run import fit
from jitflow.verbs import commandline


class Understood(Exception):
    """Raised in place of the work."""


@pytest.fixture
def only_parse(monkeypatch):
    """Let commands read their options and do nothing; what was read is returned."""
    read = {}

    def note(function, given):
        read.update(given)

    def stop(recipe, run_dir, *args, **kwargs):
        read.update(recipe, run_dir=str(run_dir))
        raise Understood

    monkeypatch.setattr(commandline, "call", note)
    monkeypatch.setattr(fit, "fit", stop)
    return read


def test_every_verb_is_listed_once_by_what_somebody_wants_to_do():
    assert sorted(name for names in cli.TASKS.values() for name in names) == sorted(cli.VERBS)


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_the_list_shows_an_example_of_each(words, capsys):
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    for name, verb in cli.VERBS.items():
        assert f"  {name} " in text and verb.example in text
        assert verb.example.split()[:2] == ["jitflow", name]


# Every example, and the number of words before its arguments.
EXAMPLES = {verb.example: 2 for name, verb in cli.VERBS.items() if verb.example not in verb.examples.values()}
EXAMPLES |= {example: 3 for verb in cli.VERBS.values() for example in verb.examples.values()}


@pytest.mark.parametrize("example", sorted(EXAMPLES))
def test_the_example_is_understood(example, only_parse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data/imagenet").mkdir(parents=True)
    try:
        status = cli.main(shlex.split(example)[1:])
    except Understood:
        status = 0
    assert status == 0
    values = str(only_parse)
    for word in shlex.split(example)[EXAMPLES[example] :]:
        if word[0] != "-" and "--config" not in example:
            assert word.split(",")[0] in values or word in ("images", "prepare"), word


@pytest.mark.parametrize("name", ["text", "microdoppler", "data", "demo", "evaluate"])
def test_every_command_of_a_verb_has_its_own_example(name, capsys):
    verb = cli.VERBS[name]
    if name in APPLICATIONS or name == "data":
        cli.main([name])
        listed = re.findall(rf"^jitflow {name} ([\w-]+)", capsys.readouterr().out, re.MULTILINE)
        assert {verb.example_of([command]).split()[2] for command in listed} == set(listed)
    for command, example in verb.examples.items():
        assert example.split()[:3] == ["jitflow", name, command]
        assert verb.example_of([command, "--help"]) == example
    assert verb.example_of(["--help"]) == verb.example


@pytest.mark.parametrize("name", ["sample", "text", "doctor", "studio", "train"])
def test_the_help_of_a_verb_begins_with_its_example(name, capsys):
    try:
        cli.main([name, "--help"])
    except SystemExit as end:
        assert end.code in (0, None)
    text = capsys.readouterr().out
    assert text.startswith(f"example: {cli.VERBS[name].example}\n")
    assert "usage:" in text or "command" in text


def test_the_list_of_verbs_needs_neither_torch_nor_gradio():
    code = "import sys; from jitflow.cli import main; main([]); sys.exit(bool({'torch', 'gradio'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, timeout=120).returncode == 0
