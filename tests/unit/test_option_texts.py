"""Options that are text, of every command: what is typed is what the command gets, and ``~`` is home in all."""

import inspect
from pathlib import Path
from typing import Union

import lightning.pytorch as pl
import pytest
from odd_texts import ODD

from jitflow import cli
from jitflow.io.files import user_path
from jitflow.run import fit
from jitflow.run.recipe import flatten
from jitflow.verbs import commandline
from jitflow.verbs.train_options import train_parser

# Every command whose options are made from a signature, with the words that it cannot do without.
COMMANDS = {
    "sample": ["a.ckpt"],
    "invert": ["a.ckpt", "images"],
    "convert": ["a.ckpt", "b.pth"],
    "evaluate": ["a.ckpt"],
    "compare": ["a", "b"],
    "stats": ["images"],
    "sweep": ["a.ckpt"],
    "data prepare": ["images", "shards"],
    "data check": ["images"],
    "export": ["a.ckpt", "out"],
    "info": ["a.ckpt"],
    "onestep": ["a.ckpt"],
    "runs": [],
    "report": ["run"],
    "doctor": [],
    "models": [],
    "microdoppler simulate": ["--output_dir", "out"],
    "microdoppler extract": ["--data_dir", "in", "--output_path", "out"],
    "microdoppler sample": ["--dit_checkpoint", "a.ckpt", "--output_dir", "out"],
    "microdoppler evaluate": ["--data_dir", "in", "--generated_dir", "drawn"],
    "microdoppler run": ["--data_dir", "in", "--output_dir", "out"],
}
every_command = pytest.mark.parametrize("command", COMMANDS)


@pytest.fixture
def given(monkeypatch):
    """Read the options of a command line, and run nothing: the command's function and its options by dotted name."""

    def read(command, options):
        found = []
        with monkeypatch.context() as patch:
            patch.setattr(commandline, "call", lambda function, given: found.append((function, given)))
            assert cli.main([*command.split(), *COMMANDS[command], *options]) == 0
        function, values = found[0]
        sections = {
            f"{name}.{field}": value
            for name, section in values.items()
            if hasattr(section, "__dataclass_fields__")
            for field, value in vars(section).items()
        }
        return function, {**values, **sections}

    return read


def texts_of(function, kind):
    """Options of a command that take text, but for those given by place."""
    placed = ("checkpoint", "file", "source", "target", "folder", "out", "first", "second", "path", "run", "pattern")
    return [name for name, found in commandline.option_kinds(function).items() if found == kind and name not in placed]


@every_command
def test_text_or_none_is_taken_as_it_was_typed(given, command):
    function, _ = given(command, [])
    names = texts_of(function, "str | None")
    for text in ODD if names else ():
        _, values = given(command, [f"--{name}={text}" for name in names])
        assert {name: values[name] for name in names} == dict.fromkeys(names, text)
    if names:
        _, values = given(command, [f"--{name}=null" for name in names])
        assert {name: values[name] for name in names} == dict.fromkeys(names)


# Trainings, whose options are settings of a recipe: the command, and where an option ends up.
TRAININGS = {
    "train --config images/jit_b16_256": {
        "run_dir": "run_dir",
        "init_from": "init_from",
        "data.data_path": "data.data_path",
        "model.model_name": "model.model_name",
    },
    "text train": {"output_dir": "run_dir", "data_path": "data.data_path", "data.val_path": "data.val_path"},
    "microdoppler train": {"output_dir": "run_dir", "latent_dir": "data.latent_dir"},
}


@pytest.mark.parametrize("command", TRAININGS)
def test_text_of_a_training_is_taken_as_it_was_typed(command, monkeypatch):
    found = {}

    class Understood(Exception):
        """Raised in place of the training."""

    def stop(recipe, run_dir, *args, **kwargs):
        found.update(flatten(recipe), run_dir=str(run_dir))
        raise Understood

    monkeypatch.setattr(fit, "fit", stop)
    # An empty path is the working folder.
    for text in [text for text in ODD if text]:
        with pytest.raises(Understood):
            cli.main([*command.split(), *(f"--{option}={text}" for option in TRAININGS[command])])
        assert {name: found[name] for name in TRAININGS[command].values()} == dict.fromkeys(
            TRAININGS[command].values(), text
        )


@pytest.mark.parametrize("path", ["~x", "~x/y", "x/~", "~", "~/a"])
def test_only_a_single_tilde_is_home(path):
    home = str(Path.home())
    assert str(user_path(path)) == (path.replace("~", home, 1) if path in ("~", "~/a") else path)


@every_command
def test_home_is_home_in_every_option(given, command):
    function, _ = given(command, [])
    names = [name for kind in ("str", "str | None") for name in texts_of(function, kind) if name != "prompt"]
    for typed, meant in {
        "~/a b/c": f"{Path.home()}/a b/c",
        "~": str(Path.home()),
        "./here": "./here",
        "a b/c": "a b/c",
        "x/~/y": "x/~/y",
    }.items():
        together = given(command, [f"--{name}={typed}" for name in names])[1]
        apart = given(command, [word for name in names for word in (f"--{name}", typed)])[1]
        for values in (together, apart):
            assert {name: values[name] for name in names} == dict.fromkeys(names, meant)


CHECKPOINTS = Path(__file__).parents[1] / "data" / "checkpoints_7ea7bf0"
TEXT = str(CHECKPOINTS / "text_recipe" / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize(
    "words",
    [
        ["--device", "cpu", TEXT, "--num_texts", "3"],
        ["--num_texts", "3", "--batch-size", "2", TEXT],
        ["--npz", TEXT, "--num_texts=3"],
        ["--dry_run", TEXT, "--num_texts", "3"],
    ],
)
def test_a_checkpoint_is_found_behind_the_options(monkeypatch, capsys, words):
    found = []
    monkeypatch.setattr(commandline, "call", lambda function, given: found.append(given))
    if "--npz" in words:
        # An option of images: the judge of text, which has been found, does not take it.
        assert cli.main(["evaluate", *words]) == 1 and "npz" in capsys.readouterr().err
        return
    assert cli.main(["evaluate", *words]) == 0
    assert found[0]["checkpoint"] == TEXT and found[0]["further"].num_texts == 3
    assert cli.main(["text", "evaluate", *words]) == 0
    for command in (["images", "evaluate", *words], ["images", "sample", "--device", "cpu", TEXT]):
        assert cli.main(command) == 1 and "belongs to text" in capsys.readouterr().err


def test_the_studio_takes_checkpoints_anywhere(monkeypatch):
    found = []
    monkeypatch.setattr(commandline, "call", lambda function, given: found.append(given))
    assert cli.main(["studio", "--device", "cpu", "a.ckpt", "--port", "7", "~/b.ckpt"]) == 0
    assert found[0]["checkpoints"] == ["a.ckpt", str(Path.home() / "b.ckpt")] and found[0]["device"] == "cpu"


def test_no_command_is_left_out():
    """A verb that takes options is in the table, but for those with a parser or words of their own."""
    own = {"demo", "train", "data", "studio", "text", "images", "microdoppler"}
    assert {command.split()[0] for command in COMMANDS} >= set(cli.VERBS) - own


def test_one_batch_is_not_all_of_them_whichever_type_typing_remembers(monkeypatch):
    # What typing makes of Lightning's Optional[int | float] where Optional[float | int] was made before.
    known = inspect.unwrap(pl.Trainer.__init__).__annotations__
    for name in ("limit_train_batches", "gradient_clip_val"):
        monkeypatch.setitem(known, name, Union[float, int, None])  # noqa: UP007 (its order matters)
    words = [
        "--model",
        "jitflow.apps.images.module.JiTLightningModule",
        "--data",
        "jitflow.data.digits.DigitsDataModule",
    ]
    for text in ("1", "1.0"):
        given = train_parser().parse_args([*words, f"--trainer.limit_train_batches={text}"])
        assert repr(given.trainer.limit_train_batches) == text
