"""Every command that writes: by ``~``, a space and links it writes where it was told; where it may not, one line."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from writing_commands import COMMANDS, LONG, SMALL, words_of

from jitflow import cli

DATA = Path(__file__).parents[1] / "data"
_NOBODY = 65534
# By a relative path, by a link, below a file, and a folder that holds something.
_REFUSED = ("../locked/new", "../link to locked/new", "../locked/file/new", "../locked/old")


@pytest.fixture(scope="module")
def inputs():
    """A folder of small inputs outside pytest's own, which other users cannot open."""
    with tempfile.TemporaryDirectory(prefix="jitflow-test-") as place:
        Path(place).chmod(0o755)
        given = Path(place, "given")
        shutil.copytree(SMALL, given)
        (given / "data" / "short.txt").write_text("One line.\n\nAnother line of text.\n" * 20)
        simulate = (
            "microdoppler simulate --num_users 2 --images_per_user 6 --img_size 64 --num_processes 1 --output_dir"
        )
        assert cli.main([*simulate.split(), str(given / "gait")]) == 0
        yield given


@pytest.fixture
def place(inputs, monkeypatch):
    """A home, links, folders that cannot be written to, and an empty working directory."""
    with tempfile.TemporaryDirectory(dir=inputs.parent) as folder:
        place = Path(folder)
        place.chmod(0o755)
        for name in ("home/a b", "real", "cwd", "locked/old"):
            (place / name).mkdir(parents=True)
        (place / "home/a b/link").symlink_to(place / "real")
        (place / "home/a b/in").symlink_to(inputs)
        (place / "link to locked").symlink_to("locked")
        (place / "locked/file").write_text("before")
        (place / "locked/old/kept").write_text("before")
        for path in (place / "cwd", place / "home"):
            path.chmod(0o777)
        for path in (place / "locked/old", place / "locked"):
            path.chmod(0o555)
        monkeypatch.chdir(place / "cwd")
        monkeypatch.setenv("HOME", str(place / "home"))
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        yield place
        for path in (place / "locked", place / "locked/old"):
            path.chmod(0o755)


@contextmanager
def unprivileged():
    """Act as a user who is stopped by permissions, which root is not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_writes_where_it_is_told_or_says_in_one_line_that_it_cannot(command, place, capsys):
    if command.startswith(("train", "demo images")):
        pytest.importorskip("sklearn.datasets")
    if command not in LONG:
        assert cli.main(words_of(command, given="~/a b/in", out="~/a b/link/new")) == 0, capsys.readouterr().err
        written = sorted((place / "real").iterdir())
        assert [path.name.partition(".")[0] for path in written] == ["new"]
        assert any(path.stat().st_size for path in [*written, *written[0].rglob("*")] if path.is_file())
    before = tree(place / "locked")
    given = str(place / "home/a b/in")
    for out in _REFUSED:
        capsys.readouterr()
        with unprivileged():
            assert cli.main(words_of(command, given=given, out=out)) == 1, out
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ") and "locked" in line, (out, line)
        assert tree(place / "locked") == before, out
    assert not list((place / "cwd").iterdir())


def test_no_command_is_left_out():
    """A command with an option for what it writes is in the table."""
    where = ("--out", "--output_dir", "--output_path", "--run_dir")
    lines = [line.rpartition(" ") for line in (DATA / "options.txt").read_text().splitlines()]
    writing = {command.removeprefix("jitflow ") for command, _, option in lines if option in where}
    # The first only says whether one could write; the other's stages are processes, of which each is in the table.
    known = {name for command in COMMANDS for name in (command, command.partition(" ")[0])}
    assert writing - {"doctor", "microdoppler run"} <= known


def test_statistics_ask_first_whether_they_can_be_saved(place, inputs, capsys):
    """No image is read before: here reading them would be another error."""
    images = place / "images"
    images.mkdir()
    (images / "0.png").write_bytes(b"no image")
    options = ["--img_size", "8", "--extractor", "pixels", "--num_workers", "0"]
    with unprivileged():
        assert cli.main(["stats", str(images), *options, "--out", "../locked/new/a.npz"]) == 1
    assert "locked" in capsys.readouterr().err


INPUTS = {command: line for command, line in COMMANDS.items() if "{in}" in line and command not in LONG}


@pytest.mark.parametrize("command", INPUTS)
def test_inputs_that_may_not_be_read_are_one_line(command, place, inputs, capsys):
    closed = place / "closed"
    shutil.copytree(inputs, closed)
    for path in closed.rglob("*"):
        if path.is_file():
            path.chmod(0)
    for given in (closed, place / ("x" * 300)):
        capsys.readouterr()
        with unprivileged():
            assert cli.main(words_of(command, given=str(given), out=str(place / "home" / "new"))) == 1
        said = capsys.readouterr().err.strip().splitlines()
        assert said[-1].startswith("error: ") and str(given) in said[-1], said
        # The check of a data set lists what it found, which here is all of it.
        assert len(said) == 1 or command == "data check", said
        assert "damaged" not in said[-1], said


def test_a_run_that_may_not_be_read_hides_no_other(place, inputs, capsys, caplog):
    shutil.copytree(inputs / "images_recipe", place / "runs" / "a")
    shutil.copytree(inputs / "images_recipe", place / "runs" / "b")
    (place / "runs" / "a" / "environment.json").chmod(0)
    with unprivileged():
        assert cli.main(["runs", str(place / "runs")]) == 0
    assert "runs/b/" in capsys.readouterr().out
    (line,) = caplog.messages
    assert "runs/a is left out" in line and "Permission denied" in line
