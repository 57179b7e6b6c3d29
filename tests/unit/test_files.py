"""Reading without running code, writing without leaving half a file."""

import fractions
import json
import os
import pickle
import random
import stat

import pytest
import torch

from jitflow.errors import CheckpointError, ConfigError, MissingFileError
from jitflow.io.files import atomic_path, existing_file, load_checkpoint, read_json, write_json, write_text


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_atomic_write_takes_the_name_only_at_the_end(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".txt"
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert names(path.parent) == ["a.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="in the middle"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("in the middle")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_the_file_has_the_rights_of_a_plain_one(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_json(tmp_path):
    path = tmp_path / "a.json"
    value = {"name": "Köln", "list": [1, 2.5, None]}
    write_json(path, value)
    assert read_json(path) == value
    assert "Köln" in path.read_text(encoding="utf-8")
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == value


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00"])
def test_bad_json_is_named(tmp_path, content):
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.json is not valid JSON"):
        read_json(tmp_path / "bad.json")


def test_a_missing_file_names_the_nearest_folder(tmp_path):
    with pytest.raises(MissingFileError, match=f"does not exist .*: {tmp_path}\\)"):
        existing_file(tmp_path / "no" / "such" / "file")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        existing_file(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoint_round_trip(tmp_path, zipped):
    path = tmp_path / "a.ckpt"
    torch.save({"w": torch.arange(3.0), "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    checkpoint = load_checkpoint(str(path))
    assert checkpoint["w"].tolist() == [0, 1, 2]
    assert checkpoint["epoch"] == 3


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def refused(path):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_with_foreign_objects_is_refused_and_runs_nothing(tmp_path, zipped):
    path, sprung = tmp_path / "a.ckpt", tmp_path / "sprung"
    torch.save({"w": torch.zeros(1), "x": Trap(sprung)}, path, _use_new_zipfile_serialization=zipped)
    assert "objects other than tensors" in refused(path)
    path.write_bytes(pickle.dumps({"x": Trap(sprung)}))
    refused(path)
    assert not sprung.exists()


def test_a_refused_class_is_named(tmp_path):
    torch.save({"args": fractions.Fraction(1, 2)}, tmp_path / "a.ckpt")
    assert "fractions.Fraction" in refused(tmp_path / "a.ckpt")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(tmp_path, zipped, share):
    path = tmp_path / "a.ckpt"
    torch.save({"w": torch.randn(5000)}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_damage_anywhere_is_never_another_error(tmp_path, zipped):
    path, rng = tmp_path / "a.ckpt", random.Random(0)
    torch.save({"w": torch.randn(50), "a": [1, "x", {}]}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    refusals = 0
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(3):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            refusals += 1
            assert "\n" not in str(error)
            assert "()" not in str(error)
    assert refusals > 100


@pytest.mark.parametrize("content", [b"not a checkpoint at all", b"\x89PNG\r\n\x1a\n" + bytes(100), b"\x80\x02."])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.ckpt").write_bytes(content)
    refused(tmp_path / "a.ckpt")


@pytest.mark.parametrize("value", [torch.zeros(2), [1, 2]])
def test_a_checkpoint_is_a_dictionary(tmp_path, value):
    torch.save(value, tmp_path / "a.ckpt")
    assert f"holds a {type(value).__name__}, not a checkpoint" in refused(tmp_path / "a.ckpt")


def test_a_missing_checkpoint(tmp_path):
    with pytest.raises(MissingFileError, match=r"checkpoint .* does not exist"):
        load_checkpoint(tmp_path / "a.ckpt")
