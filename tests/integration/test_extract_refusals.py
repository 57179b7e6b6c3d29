"""What stage 1 refuses before it writes: wrong arguments, wrong files, and files of somebody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from striped_data import SIDE, make_data

from jitflow.apps.microdoppler.extract import extract
from jitflow.errors import CheckpointError, ConfigError, DataError, MissingFileError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def test_files_of_somebody_else_stay(data, tmp_path):
    (tmp_path / "train.safetensors").write_bytes(b"precious")
    with pytest.raises(ConfigError, match=r"holds train\.safetensors that"):
        extract(data, tmp_path, img_size=SIDE)
    assert (tmp_path / "train.safetensors").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ConfigError, "batch_size must be at least 1; got 0"),
        ({"num_processes": 0}, ConfigError, "num_processes must be at least 1; got 0"),
        ({"img_size": 0}, ConfigError, "img_size must be at least 1; got 0"),
        ({"img_size": 40}, ConfigError, "img_size 40 must be divisible by 16"),
        ({"val_fraction": 0.2}, ConfigError, "has val/ already"),
        ({"vavae_path": "none.pt"}, MissingFileError, r"image codec none\.pt does not exist"),
        ({"device": "cuda:99"}, ConfigError, "device cuda:99 cannot be used here"),
    ],
)
def test_arguments_that_cannot_work(data, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        extract(data, tmp_path / "out", **{"img_size": SIDE, **options})


def test_other_things_that_cannot_work(data, tmp_path):
    with pytest.raises(MissingFileError, match=r"data_dir .* is not a folder"):
        extract(tmp_path / "none", tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"output_path .*file is a file"):
        extract(data, tmp_path / "file")
    torch.save({"state_dict": {"loss.logvar": torch.zeros(())}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt .*VA-VAE.*loss \(1 tensor\)"):
        extract(data, tmp_path / "out", vavae_path=tmp_path / "other.pt")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="12 patches of 16x16 pixels are too few"):
        extract(make_few(tmp_path / "few"), tmp_path / "out", img_size=16)


def make_few(root: Path) -> Path:
    make_data(root)
    for path in (root / "train").rglob("*.png"):
        if int(path.stem) > 3:
            path.unlink()
    return root


def test_the_script_says_how_to_install(tmp_path):
    script = tmp_path / "stage1_extract_features.py"
    script.write_text((ROOT / "stage1_extract_features.py").read_text())
    found = subprocess.run(
        [sys.executable, "-S", str(script)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
    )
    assert found.returncode == 1
    assert "make setup" in found.stderr
    assert found.stderr.count("\n") == 1
