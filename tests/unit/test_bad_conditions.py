"""A full or read-only disk, terminals and files of other encodings: one line, and what was there is untouched."""

from __future__ import annotations

import errno
import io
import os
import resource
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from jitflow import cli
from jitflow.apps.images.module import JiTLightningModule
from jitflow.checkpoint.find import resume_point
from jitflow.checkpoint.folder import CheckpointFolder
from jitflow.checkpoint.formats import write_state
from jitflow.checkpoint.state import ModelState
from jitflow.errors import CheckpointError, ConfigError, WriteError
from jitflow.evaluation.frechet import save_statistics
from jitflow.inspect.info import describe_path
from jitflow.io.files import atomic_path, clear_leftovers, writable_folder, write_json, write_text
from jitflow.pictures import save_image
from jitflow.run.recipe import read_recipe

NET = {"depth": 2, "hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8, "in_context_len": 2}
_ROOM_BYTES = 4096


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    module = JiTLightningModule("JiT-N/4", 8, 3, net_settings=NET)
    weights = {name: value + 0.1 * torch.randn_like(value) for name, value in module.state_dict().items()}
    return ModelState(settings=dict(module.hparams), weights=weights, ema1=dict(weights))


@pytest.fixture
def full_disk():
    """Let no file grow beyond a page, which ends a write as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_ROOM_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def noise():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8))


WRITERS = {
    "a.txt": lambda path, state: write_text(path, "x" * 99_999),
    "a.json": lambda path, state: write_json(path, ["x" * 99_999]),
    "a.safetensors": lambda path, state: write_state(state, path),
    "a.ckpt": lambda path, state: write_state(state, path),
    "a.pth": lambda path, state: write_state(state, path),
    "a.npz": lambda path, state: save_statistics(path, torch.zeros(64), torch.eye(64)),
    "a.png": lambda path, state: save_image(noise(), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_and_changes_nothing(tmp_path, full_disk, state, name):
    (tmp_path / name).write_bytes(b"before")
    with pytest.raises(WriteError, match=name) as error:
        WRITERS[name](tmp_path / name, state)
    assert "\n" not in str(error.value) and "another folder" in str(error.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: b"before"}


def test_a_quite_full_disk_is_found_before_the_work(tmp_path):
    """An empty file can still be made there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(ConfigError, match="cannot write into"):
            writable_folder(tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path, monkeypatch, state, name, number):
    def refuse(*args, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(WriteError, match=name) as error:
        WRITERS[name](tmp_path / name, state)
    # Who saves and goes on handles it as an error of the system.
    assert error.value.errno == number and error.value.strerror == os.strerror(number)


def test_other_errors_inside_a_writer_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        (tmp_path / "gone").read_text()
    with pytest.raises(RuntimeError, match="mine"), atomic_path(tmp_path / "a"):
        raise RuntimeError("mine")


def test_commands_end_in_one_line(tmp_path, capsys, state, full_disk, monkeypatch):
    monkeypatch.chdir(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    write_state(state, tmp_path / "m.ckpt")
    folder = tmp_path / "images" / "c"
    folder.mkdir(parents=True)
    for number in range(4):
        Image.fromarray(np.full((40, 40, 3), 60 * number, np.uint8)).save(folder / f"{number}.png")
    resource.setrlimit(resource.RLIMIT_FSIZE, (_ROOM_BYTES, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    commands = [
        ["convert", "m.ckpt", "out.safetensors"],
        ["convert", "m.ckpt", "out.pth"],
        ["export", "m.ckpt", "out", "--license", "mit"],
        ["stats", "images", "--img_size", "16", "--extractor", "pixels", "--out", "out.npz", "--num_workers", "0"],
        [
            *("evaluate", "m.ckpt", "--reference", "images", "--extractor", "pixels", "--num_images", "300"),
            *("--steps", "1", "--npz", "true", "--device", "cpu", "--out", "out"),
        ],
    ]
    for words in commands:
        assert cli.main(words) == 1, words
        said = capsys.readouterr().err.strip().splitlines()
        assert said[-1].startswith("error: ") and "cannot write" in said[-1] and "Traceback" not in str(said), words
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    # The same command goes on once there is room.
    assert cli.main(commands[-1]) == 0
    with np.load(tmp_path / "out" / "samples.npz") as archive:
        assert archive["arr_0"].shape == (300, 8, 8, 3) and archive["arr_1"].tolist() == [i % 3 for i in range(300)]


def test_leftovers_of_a_kill_are_cleared_and_nothing_else(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a.png") as temporary:
        left = temporary.with_name(temporary.name)
        temporary.rename(tmp_path / "kept")
        raise KeyboardInterrupt
    (tmp_path / "kept").rename(left)
    for name in (".hidden", ".a.png", "a.png", ".keep.me.png", ".DS_Store"):
        (tmp_path / name).write_bytes(b"x")
    clear_leftovers(tmp_path, ".npz")
    assert left.exists()
    clear_leftovers(tmp_path)
    assert not left.exists() and len(list(tmp_path.iterdir())) == 5


def test_an_unreadable_folder_of_checkpoints_is_no_new_run(tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    assert resume_point(tmp_path) is None
    real = os.listdir

    def refuse(path="."):
        if str(path).endswith("checkpoints"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr("os.listdir", refuse)
    for ask in (lambda: resume_point(tmp_path), CheckpointFolder(tmp_path / "checkpoints").checkpoints):
        with pytest.raises(CheckpointError, match="checkpoints"):
            ask()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_terminals_of_other_encodings_end_no_work(tmp_path, monkeypatch, encoding):
    folder = tmp_path / "Ünïcode … 漢" / "train" / "c"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "ü.png")
    shown = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert cli.main(["data", "check", str(folder.parents[1]), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    assert cli.main(["runs", str(folder)]) == 1
    shown.flush()
    assert b"?" in shown.buffer.getvalue()


@pytest.mark.parametrize("content", ["seed: 1\n".encode("utf-16"), b"path: caf\xe9\n"], ids=["utf-16", "latin-1"])
@pytest.mark.parametrize("read", [read_recipe, describe_path])
def test_yaml_of_another_encoding_is_called_so(tmp_path, content, read):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.yaml is not UTF-8"):
        read(tmp_path / "a.yaml")


@pytest.mark.parametrize("content", ["\ufeffmodel: {}\r\n", "model: {}\r\n"], ids=["mark", "line ends"])
def test_yaml_of_windows_is_read(tmp_path, content):
    (tmp_path / "a.yaml").write_bytes(content.encode())
    assert read_recipe(tmp_path / "a.yaml") == {"model": {}}
