"""A folder of checkpoints knows what is damaged, whatever a crash left there."""

import json
import logging
import os

import pytest
import torch

from jitflow.checkpoint import folder as checkpoint_folder
from jitflow.checkpoint.find import find_checkpoint, resume_point
from jitflow.checkpoint.folder import LAST_NAME, MANIFEST_NAME, MILESTONE, PREVIOUS_NAME, CheckpointFolder
from jitflow.errors import CheckpointError, MissingFileError
from jitflow.io.files import temporary_beside


def put(folder, name, step, kind="last", **how):
    temporary = temporary_beside(folder.folder / name)
    torch.save({"global_step": step}, temporary)
    folder.commit(temporary, name, kind=kind, step=step, **how)
    # Files of the same nanosecond have no order.
    os.utime(folder.folder / name, ns=(step * 10**9, step * 10**9))
    return folder.folder / name


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


def flip(path, place=-200):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_file_that_was_put_is_whole_and_written_down(tmp_path):
    folder = CheckpointFolder(tmp_path)
    path = put(folder, LAST_NAME, 3)
    content = json.loads((tmp_path / "manifest.json").read_text())
    assert content["format"] == "jitflow checkpoints"
    (record,) = content["files"][LAST_NAME]
    assert record["step"] == 3 and record["num_bytes"] == path.stat().st_size and len(record["sha256"]) == 64
    assert folder.problem(path) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == [LAST_NAME, "manifest.json"]


def test_one_flipped_bit_is_noticed_and_the_previous_one_is_taken(tmp_path, caplog):
    folder = CheckpointFolder(tmp_path)
    put(folder, LAST_NAME, 1, keep_previous=True)
    path = put(folder, LAST_NAME, 2, keep_previous=True)
    assert step_of(find_checkpoint(tmp_path)) == 2
    flip(path)
    assert folder.problem(path) == "its checksum differs"
    found = find_checkpoint(tmp_path)
    assert found.name == PREVIOUS_NAME and step_of(found) == 1
    assert f"{path} is damaged (its checksum differs); looking for an older" in caplog.text
    with pytest.raises(CheckpointError, match=rf"{LAST_NAME} is damaged .*use .*{PREVIOUS_NAME}"):
        find_checkpoint(path)


def test_previous_moves_on_and_keeps_its_record(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for step in range(1, 5):
        put(folder, LAST_NAME, step, keep_previous=True)
    previous = tmp_path / PREVIOUS_NAME
    assert step_of(previous) == 3
    assert folder.problem(previous) is None
    # In the process that put them, nothing but the file there and the one before is written down.
    assert [r.step for r in folder.records()[PREVIOUS_NAME]] == [2, 3]
    flip(previous)
    assert folder.problem(previous) == "its checksum differs"


def test_a_file_is_read_once_to_find_the_newest(tmp_path, monkeypatch):
    for step in range(1, 4):
        put(CheckpointFolder(tmp_path), LAST_NAME, step, keep_previous=True)
    # Several records of the same size, of which one describes the file.
    assert len(CheckpointFolder(tmp_path).records()[LAST_NAME]) > 1
    read, file_checksum = [], checkpoint_folder.file_checksum
    monkeypatch.setattr(checkpoint_folder, "file_checksum", lambda path: read.append(path.name) or file_checksum(path))
    assert step_of(resume_point(tmp_path)) == 3
    assert sorted(read) == [LAST_NAME, PREVIOUS_NAME]


@pytest.mark.parametrize("where", ["commit_file", "_link", "write_json"])
def test_a_crash_at_any_point_leaves_only_whole_files(tmp_path, monkeypatch, where):
    first = CheckpointFolder(tmp_path)
    put(first, LAST_NAME, 1, keep_previous=True)
    put(first, LAST_NAME, 2, keep_previous=True)

    def crash(*args, **kwargs):
        raise SystemError("power cut")

    for step in (3, 4):
        # A new process, which goes on from what is there.
        folder = CheckpointFolder(tmp_path)
        with monkeypatch.context() as patch, pytest.raises(SystemError):
            if where == "_link":
                patch.setattr(folder, where, crash)
            else:
                patch.setattr(checkpoint_folder, where, crash)
            put(folder, LAST_NAME, step, keep_previous=True)
        for file in folder.checkpoints():
            assert folder.problem(file) is None, (step, file)
        assert step_of(find_checkpoint(tmp_path)) == 2
    put(CheckpointFolder(tmp_path), LAST_NAME, 5, keep_previous=True)
    assert step_of(find_checkpoint(tmp_path)) == 5
    assert step_of(tmp_path / PREVIOUS_NAME) == 2


def test_a_copied_folder_still_knows_what_is_newest(tmp_path):
    """A copy has lost the times of its files, but not the steps in its manifest."""
    folder = CheckpointFolder(tmp_path)
    for name, step in (("checkpoint_epoch_1.pth", 3), (LAST_NAME, 9), ("best_model.pth", 6)):
        put(folder, name, step)
    for seconds, name in enumerate((LAST_NAME, "checkpoint_epoch_1.pth", "best_model.pth")):
        os.utime(tmp_path / name, (seconds, seconds))
    assert step_of(find_checkpoint(tmp_path)) == 9
    # What was never written down has only its time to tell.
    (tmp_path / MANIFEST_NAME).unlink()
    assert step_of(find_checkpoint(tmp_path)) == 6


def test_without_a_manifest_only_a_file_cut_short_is_noticed(tmp_path, caplog):
    folder = CheckpointFolder(tmp_path)
    put(folder, "a.ckpt", 1)
    path = put(folder, "b.ckpt", 2)
    folder.manifest.unlink()
    assert find_checkpoint(tmp_path) == path
    path.write_bytes(path.read_bytes()[:-30])
    os.utime(path)
    assert find_checkpoint(tmp_path).name == "a.ckpt"
    assert "b.ckpt is damaged (it was truncated)" in caplog.text
    assert find_checkpoint(path) == path


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"format": "jitflow checkpoints", "version": 1, "files": []}',
        '{"format": "jitflow checkpoints", "version": 1, "files": {"checkpoint-last.pth": [{"kind": "last"}]}}',
        '{"format": "jitflow checkpoints", "version": 1, "files": {"checkpoint-last.pth": [[1]]}}',
        '{"format": "jitflow checkpoints", "version": 1, "files": {"checkpoint-last.pth": [{"kind": "last", "step": 1, '
        '"num_bytes": 1, "sha256": "../../etc"}]}}',
    ],
)
def test_a_damaged_manifest_is_left_aside(tmp_path, caplog, content):
    folder = CheckpointFolder(tmp_path)
    path = put(folder, LAST_NAME, 1)
    folder.manifest.write_text(content)
    assert find_checkpoint(tmp_path) == path
    assert "manifest.json is damaged and ignored" in caplog.text
    # And written anew at the next save.
    put(CheckpointFolder(tmp_path), LAST_NAME, 2)
    assert [r.step for r in folder.records()[LAST_NAME]] == [2]


def test_a_manifest_speaks_about_its_own_folder_only(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    folder = CheckpointFolder(tmp_path)
    put(folder, LAST_NAME, 1)
    content = json.loads(folder.manifest.read_text())
    content["files"]["../outside.pth"] = content["files"][LAST_NAME]
    folder.manifest.write_text(json.dumps(content))
    assert list(folder.records()) == [LAST_NAME]
    assert not caplog.text


def test_forgetting_removes_file_and_record(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for step in (1, 3, 2):
        put(folder, f"checkpoint-{step}.pth", step, kind=MILESTONE)
    assert folder.names_of_kind(MILESTONE) == ["checkpoint-1.pth", "checkpoint-2.pth", "checkpoint-3.pth"]
    folder.remove(["checkpoint-1.pth"])
    assert folder.names_of_kind(MILESTONE) == ["checkpoint-2.pth", "checkpoint-3.pth"]
    assert not (tmp_path / "checkpoint-1.pth").exists()


def test_a_resume_point_is_never_a_silent_start_from_nothing(tmp_path):
    assert resume_point(tmp_path / "nowhere") is None
    assert resume_point(tmp_path) is None
    path = put(CheckpointFolder(tmp_path / "checkpoints"), LAST_NAME, 1)
    assert resume_point(tmp_path) == path
    flip(path)
    with pytest.raises(CheckpointError, match=r"every checkpoint in .* is damaged"):
        resume_point(tmp_path)
    with pytest.raises(MissingFileError):
        find_checkpoint(tmp_path)


def test_where_files_cannot_have_two_names_there_is_no_previous_one(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(checkpoint_folder.os, "link", refuse)
    folder = CheckpointFolder(tmp_path)
    put(folder, LAST_NAME, 1, keep_previous=True)
    put(folder, LAST_NAME, 2, keep_previous=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [LAST_NAME, "manifest.json"]
    assert step_of(find_checkpoint(tmp_path)) == 2
