"""Pushing an export and fetching it again; the hub is a folder here, behind the client's own signatures."""

import shutil
import sys
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import torch

from jitflow.checkpoint.formats import read_state
from jitflow.cli import main
from jitflow.errors import ConfigError
from jitflow.export.hub import pull, push

hub = pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")
RELEASE = Path(__file__).parents[1] / "reference" / "jit_tiny_checkpoint-last.pth"


@pytest.fixture
def client(tmp_path):
    """A client whose hub is a folder. A call that the real one would not take is a TypeError."""
    root = tmp_path / "hub"
    api = create_autospec(hub.HfApi, instance=True)

    def create(repo_id, *, private=None, exist_ok=False, **_):
        (root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        (root / repo_id / ".private").write_text(str(private))

    def upload(*, repo_id, folder_path, **_):
        shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)

    def download(repo_id, filename, *, local_dir=None, **_):
        if not (root / repo_id / filename).is_file():
            raise hub.errors.LocalEntryNotFoundError(f"no {filename} in {repo_id}\nand more")
        target = Path(local_dir) / filename
        target.parent.mkdir(parents=True, exist_ok=True)
        return str(shutil.copy(root / repo_id / filename, target))

    api.create_repo.side_effect = create
    api.upload_folder.side_effect = upload
    api.hf_hub_download.side_effect = download
    api.root = root
    return api


def test_what_was_pushed_comes_back_bit_by_bit(client, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(hub, "HfApi", lambda: client)
    words = ["export", str(RELEASE), str(tmp_path / "out"), "--ema", "all", "--push_to", "me/digits"]
    assert main([*words, "--dry-run"]) == 0
    assert not client.create_repo.called and not (tmp_path / "out").exists()
    assert main(words) == 0
    assert "hf://me/digits" in capfd.readouterr().err
    assert (client.root / "me/digits/.private").read_text() == "True"
    assert (client.root / "me/digits/README.md").read_text() == (tmp_path / "out" / "README.md").read_text()

    assert main(["export", "hf://me/digits", str(tmp_path / "back"), "--ema", "all"]) == 0
    ours, theirs = read_state(RELEASE), read_state(tmp_path / "back" / "model.safetensors")
    for before, after in ((ours.weights, theirs.weights), (ours.ema1, theirs.ema1), (ours.ema2, theirs.ema2)):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_file_is_named_by_its_path(client, tmp_path):
    folder = tmp_path / "pipeline"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    assert push(folder, "hf://me/pipeline", private=False, client=client) == "hf://me/pipeline"
    assert (client.root / "me/pipeline/.private").read_text() == "False"
    found = pull("hf://me/pipeline/model/model.safetensors", tmp_path / "here", client=client)
    assert found.read_bytes() == b"weights"


def test_what_fails_is_one_line(client, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(hub, "HfApi", lambda: client)
    assert main(["export", "hf://me/nothing", str(tmp_path / "x")]) == 1
    assert "model.safetensors could not be fetched from hf://me/nothing: no model" in capfd.readouterr().err
    assert main(["export", str(RELEASE), str(tmp_path / "x"), "--push_to", "digits"]) == 1
    assert not (tmp_path / "x").exists()
    for name in ("digits", "a/b/c", "/digits"):
        with pytest.raises(ConfigError, match="user/name"):
            push(tmp_path, name, client=client)
    with pytest.raises(ConfigError, match="export a model into it"):
        push(tmp_path / "none", "me/digits", client=client)
    # What the client's HTTP library raises without a connection is no OSError.
    client.create_repo.side_effect = hub.errors.HfHubHTTPError.__bases__[0]("no route to the hub")
    with pytest.raises(ConfigError, match="uploaded to hf://me/digits: no route"):
        push(tmp_path, "me/digits", client=client)


def test_without_the_client_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"jitflow\[hub\]"):
        push(tmp_path, "me/digits")
