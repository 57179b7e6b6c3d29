"""JSON of great depth or with endless numbers, pictures of huge sizes, logs that are no CSV: one error, or left out."""

from __future__ import annotations

import struct
import zlib

import pytest
import torch
from safetensors.torch import save_file

from jitflow import cli
from jitflow.checkpoint.formats import read_state
from jitflow.codec.linear import FORMAT, LinearCodec
from jitflow.errors import CheckpointError, ConfigError
from jitflow.inspect.info import describe_path
from jitflow.io.files import read_json
from jitflow.run.curves import read_curves

DEEP = "[" * 50_000 + "]" * 50_000
HOSTILE = [DEEP, '{"a": ' + "9" * 6000 + "}"]


@pytest.mark.parametrize("text", HOSTILE, ids=["depth", "digits"])
def test_json_is_one_error_that_names_the_file(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("text", HOSTILE, ids=["depth", "digits"])
@pytest.mark.parametrize("entry", ["settings", "extra"])
def test_settings_inside_a_checkpoint_are_one_error(tmp_path, text, entry):
    save_file({"net.weight": torch.zeros(2)}, tmp_path / "a.safetensors", metadata={entry: text})
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        read_state(tmp_path / "a.safetensors")


@pytest.mark.parametrize("text", HOSTILE, ids=["depth", "digits"])
def test_settings_inside_a_codec_are_one_error(tmp_path, text):
    weights = {"components": torch.zeros(4, 4), "patch_mean": torch.zeros(4)}
    save_file(weights, tmp_path / "b.safetensors", metadata={"format": FORMAT, "img_size": text})
    with pytest.raises(CheckpointError, match="its settings cannot be read"):
        LinearCodec.from_file(tmp_path / "b.safetensors")


def png_of_size(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_a_small_picture_with_a_huge_size_is_one_error(tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(png_of_size(31_623, 31_623))
    with pytest.raises(ConfigError, match=r"a\.png cannot be read"):
        describe_path(tmp_path / "a.png")
    assert cli.main(["info", str(tmp_path / "a.png")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_log_that_is_no_csv_hides_no_other_run(tmp_path, capsys):
    for name, last in {"a": "3," + "9" * 200_000, "b": "1e300,5", "c": "3,5"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "environment.json").write_text("{}")
        (tmp_path / name / "metrics.csv").write_text(f"step,train/loss\n1,2.5\n{last}\n")
    assert read_curves(tmp_path / "a") == read_curves(tmp_path / "b") == {"train/loss": [(1, 2.5)]}
    assert cli.main(["runs", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert all(f"/{name} " in listed for name in "abc")
    # A name of a metric that is no formula.
    (tmp_path / "c" / "metrics.csv").write_text("step,$\\frac{$\n1,2\n2,3\n")
    for name in "abc":
        assert cli.main(["report", str(tmp_path / name)]) == 0
