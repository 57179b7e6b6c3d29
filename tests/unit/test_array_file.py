"""Arrays larger than memory: the file is a safetensors file, survives its writer, and never lies about its state."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from jitflow.errors import ConfigError, DataError, MissingFileError
from jitflow.io.array_file import ArrayFileWriter, open_arrays, part_path

ALL_TYPES = ["uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "bool"]
LAYOUT = {"latents": ((6, 2, 3), "float32"), "labels": ((6,), "int64"), "mask": ((5,), "bool")}


def fill(writer):
    rng = np.random.default_rng(0)
    for array in writer.arrays.values():
        array[...] = rng.integers(0, 2 if array.dtype == bool else 100, array.shape)
    return {name: array.copy() for name, array in writer.arrays.items()}


def test_every_type_is_read_by_the_library_bit_for_bit(tmp_path):
    path = tmp_path / "x.safetensors"
    # Sides of 3, so that narrow types end at odd places.
    writer = ArrayFileWriter.create(path, {f"a_{name}": ((3, 5), name) for name in ALL_TYPES}, {"old": "words"})
    written = fill(writer)
    assert not path.exists()
    assert writer.finish({"mean": "1", "ümlaut": "ß"}) == path
    loaded = load_file(path)
    assert loaded.keys() == written.keys()
    for name, tensor in loaded.items():
        assert tensor.numpy().dtype == written[name].dtype == name[2:]
        assert np.array_equal(tensor.numpy(), written[name])
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"mean": "1", "ümlaut": "ß"}
    arrays, metadata = open_arrays(path)
    assert metadata == {"mean": "1", "ümlaut": "ß"}
    assert all(np.array_equal(arrays[name], written[name]) for name in written)
    assert all(array.flags.aligned for array in arrays.values())
    assert list(tmp_path.iterdir()) == [path]


def test_files_of_the_library_can_be_mapped(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5), "c": torch.tensor([True, False])}
    save_file(tensors, path)
    arrays, metadata = open_arrays(path)
    assert metadata == {}
    assert all(np.array_equal(arrays[name], tensor.numpy()) for name, tensor in tensors.items())
    with pytest.raises(ValueError, match="read-only"):
        arrays["a"][0] = 0


def test_mapping_reads_nothing(tmp_path):
    path = tmp_path / "x.safetensors"
    ArrayFileWriter.create(path, {"a": ((1000, 1000), "float32")}).finish()
    assert isinstance(open_arrays(path)[0]["a"], np.memmap)


def test_empty_arrays(tmp_path):
    path = tmp_path / "x.safetensors"
    writer = ArrayFileWriter.create(path, {"a": ((0, 4), "float32"), "b": ((2,), "int64")})
    writer.arrays["b"][:] = 7
    writer.finish()
    assert load_file(path)["a"].shape == (0, 4)
    arrays, _ = open_arrays(path)
    assert arrays["a"].shape == (0, 4)
    assert arrays["b"].tolist() == [7, 7]
    ArrayFileWriter.create(path, {}).finish()
    assert open_arrays(path)[0] == {}


def test_what_was_written_survives_a_new_writer_and_other_processes(tmp_path):
    path = tmp_path / "deep" / "x.safetensors"
    first = ArrayFileWriter.create(path, LAYOUT, {"inputs": "abc"})
    first.arrays["labels"][:3] = [1, 2, 3]
    code = (
        "import sys; from jitflow.io.array_file import ArrayFileWriter\n"
        "ArrayFileWriter.reopen(sys.argv[1]).arrays['labels'][3:] = [4, 5, 6]"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert first.arrays["labels"].tolist() == [1, 2, 3, 4, 5, 6]
    del first
    again = ArrayFileWriter.reopen(path, LAYOUT)
    assert again.metadata == {"inputs": "abc"}
    assert again.arrays["labels"].tolist() == [1, 2, 3, 4, 5, 6]
    assert not again.arrays["latents"].any()
    again.finish()
    arrays, metadata = open_arrays(path)
    assert metadata == {"inputs": "abc"}
    assert arrays["labels"].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "other",
    [
        {**LAYOUT, "labels": ((7,), "int64")},
        {**LAYOUT, "labels": ((6,), "int32")},
        {name: LAYOUT[name] for name in ("latents", "labels")},
    ],
)
def test_a_file_with_other_arrays_is_not_continued(tmp_path, other):
    path = tmp_path / "x.safetensors"
    ArrayFileWriter.create(path, LAYOUT)
    with pytest.raises(DataError, match=r"\.part holds labels \(6,\).* instead of"):
        ArrayFileWriter.reopen(path, other)


def test_nothing_to_continue(tmp_path):
    with pytest.raises(MissingFileError, match=r"unfinished file .*x\.safetensors\.part"):
        ArrayFileWriter.reopen(tmp_path / "x.safetensors", LAYOUT)


def test_creating_replaces_the_unfinished_and_keeps_the_finished(tmp_path):
    path = tmp_path / "x.safetensors"
    writer = ArrayFileWriter.create(path, LAYOUT)
    written = fill(writer)
    writer.finish()
    fill(ArrayFileWriter.create(path, LAYOUT))
    fresh = ArrayFileWriter.create(path, LAYOUT)
    assert not any(array.any() for array in fresh.arrays.values())
    assert np.array_equal(open_arrays(path)[0]["latents"], written["latents"])
    fresh.abandon()
    assert not part_path(path).exists()
    assert np.array_equal(open_arrays(path)[0]["latents"], written["latents"])


def test_full_disk_is_one_error_before_any_work(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(ConfigError, match=r"x\.safetensors needs 0\.4 GB .*free some"):
        ArrayFileWriter.create(tmp_path / "x.safetensors", {"a": ((100_000_000,), "float32")})
    assert list(tmp_path.iterdir()) == []


def test_file_systems_that_cannot_reserve(tmp_path, monkeypatch):
    def cannot(*args):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", cannot, raising=False)
    path = tmp_path / "x.safetensors"
    writer = ArrayFileWriter.create(path, LAYOUT)
    written = fill(writer)
    writer.finish()
    assert np.array_equal(load_file(path)["latents"].numpy(), written["latents"])


def test_room_is_really_taken(tmp_path):
    path = tmp_path / "x.safetensors"
    ArrayFileWriter.create(path, {"a": ((1 << 20,), "uint8")})
    if hasattr(os, "posix_fallocate"):
        assert part_path(path).stat().st_blocks * 512 >= 1 << 20


def test_arguments_that_cannot_work(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(ConfigError, match="'a' has the unknown type 'complex64'"):
        ArrayFileWriter.create(path, {"a": ((1,), "complex64")})
    with pytest.raises(ConfigError, match="no dimension may be negative"):
        ArrayFileWriter.create(path, {"a": ((-1,), "uint8")})
    with pytest.raises(ConfigError, match=r"header .*x\.safetensors .*has 1024"):
        ArrayFileWriter.create(path, LAYOUT, {"long": "x" * 1000}, header_bytes=1024)
    assert list(tmp_path.iterdir()) == []
    writer = ArrayFileWriter.create(path, LAYOUT, header_bytes=1024)
    written = fill(writer)
    with pytest.raises(ConfigError, match="header"):
        writer.finish({"long": "x" * 1000})
    # The error cost nothing: what was written is there.
    assert np.array_equal(ArrayFileWriter.reopen(path, LAYOUT).arrays["latents"], written["latents"])


def test_metadata_never_run_into_the_data(tmp_path):
    path = tmp_path / "x.safetensors"
    fitted = []
    for length in range(100, 400):
        try:
            writer = ArrayFileWriter.create(path, LAYOUT, header_bytes=512)
            writer.arrays["labels"][:] = 7
            writer.finish({"long": "x" * length})
        except ConfigError:
            continue
        fitted.append(length)
        arrays, metadata = open_arrays(path)
        assert metadata == {"long": "x" * length}
        assert (arrays["labels"] == 7).all()
    # Up to the last byte of the room.
    assert fitted == list(range(100, fitted[-1] + 1))
    assert path.read_bytes()[511:512] == b"}"


def finished(path):
    writer = ArrayFileWriter.create(path, LAYOUT, header_bytes=1024)
    fill(writer)
    return writer.finish()


@pytest.mark.parametrize("keep", [0, 7, 8, 500, 1024, 1100, -1])
def test_files_cut_short(tmp_path, keep):
    path = finished(tmp_path / "x.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    # Within the header the rest is not even read.
    says = "(is empty|it was truncated)" if 0 <= keep < 1024 else r"damaged: it should have \d+ bytes"
    with pytest.raises(DataError, match=rf"x\.safetensors.*{says}"):
        open_arrays(path)


def test_files_of_another_kind(tmp_path):
    path = tmp_path / "x.safetensors"
    for content in (b"PK\x03\x04" + b"\0" * 100, b"\x10" + b"\0" * 7 + b"[1,2,3]         ", b"\x89PNG\r\n\x1a\n" * 20):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"x\.safetensors is not a safetensors file"):
            open_arrays(path)
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(DataError, match="not a safetensors file"):
        open_arrays(path)
    path.write_bytes(finished(path).read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"should have \d+ bytes and has \d+"):
        open_arrays(path)


def damage(path, change):
    """Rewrite the header of a file after a change of its content."""
    raw = path.read_bytes()
    room = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + room])
    change(header)
    path.write_bytes(raw[:8] + json.dumps(header).encode().ljust(room) + raw[8 + room :])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda h: h["labels"].update(data_offsets=[0, 40]), "bytes of 'labels'"),
        (lambda h: h["labels"].update(data_offsets=[-48, 0]), "header is damaged"),
        (lambda h: h["labels"].update(shape=[7]), "bytes of 'labels'"),
        (lambda h: h["labels"].update(shape=[-2, -3]), "header is damaged"),
        (lambda h: h["labels"].update(shape=["6"]), "header is damaged"),
        (lambda h: h["labels"].update(dtype="BF16"), "type BF16, which cannot be mapped"),
        (lambda h: h["labels"].pop("dtype"), "header is damaged"),
        (
            lambda h: h["latents"].update(data_offsets=[0, 144]),
            "'latents' does not begin where",
        ),
        (lambda h: h["mask"].update(data_offsets=[10**12, 10**12 + 5]), "does not begin where"),
        (lambda h: h.update(labels=3), "header is damaged"),
    ],
)
def test_headers_that_lie(tmp_path, change, says):
    path = finished(tmp_path / "x.safetensors")
    damage(path, change)
    with pytest.raises(DataError, match=rf"x\.safetensors.*{says}"):
        open_arrays(path)


def test_a_half_made_part_is_not_continued(tmp_path):
    path = tmp_path / "x.safetensors"
    part_path(path).write_bytes(b"\0" * 5000)
    with pytest.raises(DataError, match=r"x\.safetensors\.part"):
        ArrayFileWriter.reopen(path)
