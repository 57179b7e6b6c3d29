"""Numbers at the ends of their ranges and just beyond: the command works, or one line names the option."""

from __future__ import annotations

import shutil

import pytest
from writing_commands import SMALL, words_of

from jitflow import cli

_BEYOND = 1 << 63
_COUNT = (0, -1, _BEYOND)
# Command and option, with the values that it takes and those that it refuses.
NUMBERS = [
    ("text train", "--seed", "seed", (0, (1 << 32) - 1), (-1, 1 << 32, _BEYOND)),
    ("train", "--seed_everything", "seed", (), (-1, 1 << 32)),
    ("microdoppler train", "--seed", "seed", (), (-1, 1 << 32)),
    ("sample", "--seed", "seed", (0, (1 << 32) - 1, _BEYOND - 1), (-1, _BEYOND)),
    ("sample, of text", "--seed", "seed", (_BEYOND - 1,), (-1, _BEYOND)),
    ("sample, of users", "--seed", "seed", (_BEYOND - 1,), (-1, _BEYOND)),
    ("evaluate", "--seed", "seed", (_BEYOND - 10,), (-1, _BEYOND - 9)),
    ("sweep", "--seed", "seed", (), (-1, _BEYOND - 9)),
    ("microdoppler simulate", "--seed", "seed", (0, _BEYOND - 1), (-1,)),
    ("sample", "--steps", "steps", (1,), (0, -1)),
    ("sample, of text", "--steps", "steps", (), (0, -1)),
    ("microdoppler sample", "--num_steps", "steps", (), (0, -1)),
    ("evaluate", "--steps", "steps", (), (0, -1)),
    ("sweep", "--steps", "steps", (), (0, -1)),
    ("sample", "--count", "--count", (2,), _COUNT),
    ("sample, of text", "--count", "--count", (), _COUNT),
    ("microdoppler sample", "--num_samples_per_user", "num_samples_per_user", (2,), _COUNT),
    ("train", "--data.batch_size", "batch_size", (), _COUNT),
    ("text train", "--batch_size", "batch_size", (1,), _COUNT),
    ("microdoppler train", "--batch_size", "batch_size", (), _COUNT),
    ("sample", "--batch_size", "batch_size", (1, (1 << 31) - 1), _COUNT),
    ("sample, of users", "--batch_size", "batch_size", (), _COUNT),
    ("evaluate", "--batch_size", "batch_size", (1, (1 << 31) - 1), _COUNT),
    ("sweep", "--batch_size", "batch_size", (), _COUNT),
    ("stats", "--batch_size", "batch_size", (1, (1 << 31) - 1), _COUNT),
    ("stats", "--num_workers", "num_workers", (0,), (-1, _BEYOND)),
    ("stats", "--keep_features", "keep_features", (0, (1 << 31) - 1), (-1, _BEYOND)),
    ("data prepare", "--workers", "workers", (1,), (0, -1)),
    ("data check", "--workers", "workers", (1,), (0, -1)),
    ("evaluate", "--num_images", "num_images", (), (0, 1, -1, _BEYOND, 10**30)),
    ("sweep", "--num_images", "num_images", (), (0, 1, -1, 10**30)),
    ("evaluate, of text", "--num_texts", "num_texts", (), (0, -1, _BEYOND)),
    ("microdoppler simulate", "--num_users", "num_users", (1,), (0, -1)),
    ("microdoppler simulate", "--images_per_user", "images_per_user", (), (0, -1)),
]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given") / "in"
    shutil.copytree(SMALL, folder)
    (folder / "data" / "short.txt").write_text("One line.\n\nAnother line of text.\n" * 20)
    return folder


def words(command, option, value, given, out):
    """The command's words, with another value of the option."""
    found = words_of(command, given=str(given), out=str(out))
    if option in found:
        place = found.index(option)
        del found[place : place + 2]
    return [*found, f"{option}={value}"]


@pytest.mark.parametrize(("command", "option", "name", "taken", "refused"), NUMBERS, ids=lambda part: str(part)[:30])
def test_a_number_is_taken_or_named(command, option, name, taken, refused, given, tmp_path, capsys):
    if command == "train":
        pytest.importorskip("sklearn")
    for value in taken:
        assert cli.main(words(command, option, value, given, tmp_path / f"out{value}")) == 0, value
    capsys.readouterr()
    for value in refused:
        assert cli.main(words(command, option, value, given, tmp_path / "refused")) == 1, value
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ") and name in line, (value, line)
        assert not [path for path in tmp_path.glob("refused*") if path.is_file() or any(path.iterdir())], value


def test_a_missing_checkpoint_is_named_and_not_the_options_of_its_application(tmp_path, capsys):
    assert cli.main(["evaluate", str(tmp_path / "a.ckpt"), "--num_texts", "2"]) == 1
    assert "a.ckpt does not exist" in capsys.readouterr().err
