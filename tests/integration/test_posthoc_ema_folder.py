"""Reconstructing averages from a folder of snapshots: its range, other files, damaged ones."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from jitflow.errors import CheckpointError, ConfigError, MissingFileError
from jitflow.training.posthoc_ema import (
    list_snapshots,
    read_snapshot,
    reconstruct_ema,
    write_snapshot,
)


@pytest.fixture
def small(tmp_path):
    """Snapshots of a model of one weight, by hand."""
    for step in (10, 20, 30):
        for width in (0.05, 0.10):
            write_snapshot(tmp_path, {"net.w": torch.ones(4)}, step=step, width=width, dtype="float32")
    return tmp_path


def test_a_weight_that_never_moves_is_kept(small):
    for width in (0.02, 0.07, 0.2):
        found = reconstruct_ema(small, width)["net.w"]
        torch.testing.assert_close(found, torch.ones(4), rtol=0, atol=1e-7)


@pytest.mark.parametrize("step", [9, 31, 0, -1])
def test_step_out_of_the_stored_range(small, step):
    with pytest.raises(ConfigError, match=f"10 to 30; got {step}"):
        reconstruct_ema(small, 0.07, step=step)


def test_width_out_of_range(small):
    with pytest.raises(ConfigError, match="relative width"):
        reconstruct_ema(small, 0.4)


def test_empty_and_missing_folders(tmp_path):
    assert list_snapshots(tmp_path) == []
    with pytest.raises(ConfigError, match="no EMA snapshots"):
        reconstruct_ema(tmp_path, 0.07)
    with pytest.raises(MissingFileError, match="does not exist"):
        reconstruct_ema(tmp_path / "nowhere", 0.07)


def test_other_files_are_passed_over(small):
    (small / "notes.txt").touch()
    save_file({"a": torch.zeros(1)}, small / "model.safetensors")
    assert len(list_snapshots(small)) == 6


@pytest.mark.parametrize("tensors", [{"net.w": torch.ones(5)}, {"net.w": torch.ones(4), "net.b": torch.ones(1)}])
def test_snapshots_of_two_models_in_one_folder(small, tensors):
    write_snapshot(small, tensors, step=40, width=0.05, dtype="float32")
    with pytest.raises(ConfigError, match=r"different models.*step00000040"):
        reconstruct_ema(small, 0.07)


@pytest.mark.parametrize("keep", [0, 5, 60, -4])
def test_damaged_files(small, keep):
    path = small / "step00000020_width0.050.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"width0\.050\.safetensors cannot be read"):
        reconstruct_ema(small, 0.07)


def test_a_foreign_file_under_the_name_of_a_snapshot(small):
    save_file({"net.w": torch.ones(4)}, small / "step00000040_width0.050.safetensors")
    with pytest.raises(CheckpointError, match="not an EMA snapshot"):
        reconstruct_ema(small, 0.07)
    entry = {"jitflow_ema_snapshot": '{"step": 40}'}
    save_file({"net.w": torch.ones(4)}, small / "step00000040_width0.050.safetensors", entry)
    with pytest.raises(CheckpointError, match="damaged"):
        reconstruct_ema(small, 0.07)


def test_snapshots_are_float32_whatever_the_average(tmp_path):
    average = torch.arange(6, dtype=torch.bfloat16).view(2, 3).T
    path = write_snapshot(tmp_path, {"net.w": average}, step=7, width=0.1, dtype="bfloat16")
    assert read_snapshot(path).dtype == "bfloat16"
    with safe_open(path, "pt") as file:
        stored = file.get_tensor("net.w")
    assert stored.dtype == torch.float32
    assert torch.equal(stored, average.float())
