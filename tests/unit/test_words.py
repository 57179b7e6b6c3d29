"""Words of a command line: lists, switches, sections, home, and text that means nothing but itself."""

import dataclasses
from pathlib import Path

import pytest
from odd_texts import ODD

from jitflow.errors import ConfigError
from jitflow.verbs.commandline import option_kinds, run_command
from jitflow.verbs.words import full_name, spell_out

KINDS = {
    "user_ids": "list[int]",
    "dry_run": "bool",
    "compile": "bool | Literal['auto', 'blocks', 'network']",
    "prompt": "str | None",
    "out": "str",
    "sampling.steps": "int | None",
    "sampling.solver": "str | None",
    "compute.batch_size": "int",
    "other.batch_size": "int",
}


@pytest.mark.parametrize(
    ("typed", "spelt"),
    [
        ("--user_ids 1 2 3", ["--user_ids=[1,2,3]"]),
        ("--user_ids 1 2 --out x", ["--user_ids=[1,2]", "--out=x"]),
        ("--user_ids=[1,2]", ["--user_ids=[1,2]"]),
        ("--user_ids --out x", ["--user_ids", "--out=x"]),
        ("--user-ids 4", ["--user_ids=[4]"]),
        ("--dry_run", ["--dry_run=true"]),
        ("--dry-run --out x", ["--dry_run=true", "--out=x"]),
        ("--dry_run false", ["--dry_run=false"]),
        ("--dry_run a.ckpt", ["--dry_run=true", "a.ckpt"]),
        ("--compile", ["--compile=true"]),
        ("--compile network", ["--compile=network"]),
        ("--steps 8", ["--sampling.steps=8"]),
        ("--sampling.steps 8", ["--sampling.steps=8"]),
        ("--steps=8", ["--sampling.steps=8"]),
        ("--batch_size 8", ["--batch_size=8"]),
        ("--compute.batch_size 8", ["--compute.batch_size=8"]),
        ("a.ckpt b --out x", ["a.ckpt", "b", "--out=x"]),
        ("--out", ["--out"]),
        ("--out --dry_run", ["--out", "--dry_run=true"]),
        ("--steps -1", ["--sampling.steps=-1"]),
        ("--model.compile --out x", ["--model.compile=true", "--out=x"]),
        ("--model.P_mean -0.8", ["--model.P_mean=-0.8"]),
        ("--unknown 3", ["--unknown=3"]),
    ],
)
def test_options_are_spelt_out(typed, spelt):
    assert spell_out(typed.split(), KINDS) == spelt


def test_home_is_the_beginning_of_a_path_everywhere_but_in_a_prompt():
    home = str(Path.home())
    typed = ["~/a.ckpt", "--out", "~/b", "--out=~", "--model.x", "~/c", "--user_ids", "~/d", "--prompt", "~/e"]
    assert spell_out(typed, KINDS) == [
        f"{home}/a.ckpt",
        f"--out={home}/b",
        f"--out={home}",
        f"--model.x={home}/c",
        "--user_ids=[~/d]",
        "--prompt=~/e",
    ]
    assert spell_out(["--out", "a~/b", "--out", "~user"], KINDS) == ["--out=a~/b", "--out=~user"]


def test_a_name_is_completed_only_where_one_section_has_it():
    assert full_name("steps", KINDS) == "sampling.steps"
    assert full_name("batch_size", KINDS) == "batch_size"
    assert full_name("out", {**KINDS, "sampling.out": "str"}) == "out"


@dataclasses.dataclass(frozen=True)
class HowOptions:
    """How it is done.

    Attributes:
        name: A name.
        often: How often.
    """

    name: str | None = None
    often: int = 1


def _command(
    place: str,
    text: str = "x",
    perhaps: str | None = None,
    how: HowOptions = HowOptions(),
) -> tuple[str, str, str | None, HowOptions]:
    """Return what was given.

    Args:
        place: Given by its place.
        text: A text.
        perhaps: A text or none.
        how: How.
    """
    return place, text, perhaps, how


@pytest.mark.parametrize("text", ODD)
def test_text_is_taken_as_it_was_typed(text):
    words = ["here", "--text", text, "--perhaps", text, "--name", text]
    assert run_command("try", _command, words) == ("here", text, text, HowOptions(text))
    words = ["here", f"--text={text}", f"--perhaps={text}", f"--how.name={text}"]
    assert run_command("try", _command, words) == ("here", text, text, HowOptions(text))


def test_null_is_none_where_none_is_allowed():
    words = ["here", "--text", "null", "--perhaps", "null", "--name", "null"]
    assert run_command("try", _command, words) == ("here", "null", None, HowOptions(None))


def test_a_section_has_the_defaults_of_its_class():
    assert run_command("try", _command, ["here"]) == ("here", "x", None, HowOptions())
    assert option_kinds(_command)["how.often"] == "int"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["here", "--often", "twice"], "--often must be int"),
        (["here", "--how.often", "twice"], r"--how\.often must be int"),
        (["here", "--often"], "--often: expected"),
        (["here", "--ofen", "2"], "--ofen"),
        ([], "place"),
    ],
)
def test_a_wrong_option_is_named_as_it_was_typed(words, named):
    with pytest.raises(ConfigError, match=named):
        run_command("try", _command, words)
