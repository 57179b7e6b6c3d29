"""Files that are not what their ending says are called by their name."""

from __future__ import annotations

import numpy as np
import pytest

from jitflow.checkpoint.formats import read_state
from jitflow.codec.latent import load_image_codec
from jitflow.codec.linear import LinearCodec
from jitflow.data.image_file import open_image
from jitflow.errors import CheckpointError, JitflowError
from jitflow.evaluation.frechet import load_statistics
from jitflow.inspect.info import describe_path
from jitflow.io.array_file import open_arrays
from jitflow.io.files import load_checkpoint

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 123456\n"
CONTENTS = {
    "Git LFS": POINTER,
    "web page": b"\xef\xbb\xbf\n  <!DOCTYPE html>\n<html><head><title>404</title></head></html>",
    "is empty": b"",
    "broke off": bytes(4096),
}
READERS = {
    "a.pth": [load_checkpoint, read_state, load_image_codec, describe_path],
    "a.ckpt": [load_checkpoint, read_state],
    "a.safetensors": [read_state, load_image_codec, LinearCodec.from_file, open_arrays, describe_path],
    "a.npz": [load_statistics, describe_path],
    "a.png": [lambda path: open_image(str(path), channels=3)],
}


@pytest.mark.parametrize("said", CONTENTS)
@pytest.mark.parametrize(("name", "read"), [(name, read) for name, readers in READERS.items() for read in readers])
def test_a_mistaken_file_is_called_by_its_name(tmp_path, said, name, read):
    (tmp_path / name).write_bytes(CONTENTS[said])
    with pytest.raises(JitflowError, match=said) as error:
        read(tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_file_is_still_called_damaged(tmp_path):
    (tmp_path / "a.pth").write_bytes(np.random.default_rng(0).bytes(500))
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path / "a.pth")
