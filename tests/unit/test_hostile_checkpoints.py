"""Small files that ask for hours or gigabytes: checkpoints, arrays and tokenizers end in one error within limits."""

from __future__ import annotations

import _codecs
import importlib
import io
import json
import struct
import warnings
import zipfile

import numpy as np
import pytest
import torch
from limits import limits
from safetensors.torch import save_file

from jitflow import cli
from jitflow.apps.text.tokenizer import load_tokenizer, probe, train_bpe
from jitflow.checkpoint.formats import read_state
from jitflow.errors import CheckpointError, ConfigError, DataError
from jitflow.evaluation.frechet import load_statistics
from jitflow.io.array_file import open_arrays
from jitflow.io.files import load_checkpoint
from jitflow.io.npz_file import iter_npz_rows, read_npz
from jitflow.io.pickle_scan import UnsafePickleError
from jitflow.io.torch_file import check_pickles


class Call:
    """Is a call of a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def laughs():
    """Lists of lists of the same list: 10^28 values."""
    value = ["ha"] * 10
    for _ in range(27):
        value = [value] * 10
    return value


def laughs_in_dictionaries():
    value = dict.fromkeys("abcdefgh", 1)
    for _ in range(28):
        value = dict.fromkeys("abcdefgh", value)
    return value


def cycle():
    value = {}
    value["itself"] = [value]
    return value


def deep():
    value = []
    for _ in range(200):
        value = [value]
    return value


def many_copies():
    """A list that is copied into sets again and again."""
    many = list(range(100_000))
    return [Call(set, many) for _ in range(1000)]


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)


HOSTILE = {
    "laughs": laughs,
    "laughs in dictionaries": laughs_in_dictionaries,
    "a long text again and again": lambda: ["x" * 1_000_000] * 1000,
    "cycle": cycle,
    "depth": deep,
    "copies": many_copies,
    "stride 0": lambda: torch.zeros(1).as_strided((10**11,), (0,)),
    "the same numbers again and again": lambda: [torch.zeros(100_000).expand(1000, -1)] * 3,
    "many dimensions": lambda: torch.zeros([1] * 60),
    "sparse": lambda: torch.sparse_coo_tensor([[0], [1]], [1.0], (10**6, 10**6)),
    "quantised": quantised,
    "meta": lambda: torch.empty(3, device="meta"),
    "surrogate": lambda: {"net.\ud800": torch.zeros(1)},
    "gigabytes of zeros": lambda: Call(bytearray, 10**10),
    "bytes that grow": lambda: Call(_codecs.encode, Call(_codecs.encode, "x" * 1000, "latin1"), "hex"),
    "a key of many bytes": lambda: {1 << 100: 1},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_checkpoint_is_refused_within_limits(tmp_path, make, zipped):
    path = tmp_path / "a.ckpt"
    torch.save({"extra": make()}, path, _use_new_zipfile_serialization=zipped)
    assert path.stat().st_size < 3_000_000
    with limits(), pytest.raises(CheckpointError, match=r"a\.ckpt") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_copies_are_counted_before_any_is_made(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"extra": many_copies()}, path)
    with pytest.raises(UnsafePickleError, match="steps"):
        check_pickles(path, ())


def test_plain_values_of_every_kind_are_read(tmp_path):
    odd = {
        "bytes": b"\x00\xff" * 100,
        "set": {1, 2},
        "complex": 1 + 2j,
        "size": torch.Size([1]),
        "device": torch.device("cpu"),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "float8": torch.ones(2).to(torch.float8_e4m3fn),
        "large": 1 << 200,
        "type": torch.bfloat16,
        "shared": [torch.ones(3)] * 8,
        "expanded": torch.ones(1).expand(1000),
    }
    torch.save(odd, tmp_path / "a.ckpt")
    found = load_checkpoint(tmp_path / "a.ckpt")
    for name in ("bytes", "set", "complex", "size", "device", "large", "type"):
        assert found[name] == odd[name] and type(found[name]) is type(odd[name])
    assert torch.equal(found["expanded"], torch.ones(1000))
    assert found["shared"][0] is found["shared"][7]


def test_a_compressed_checkpoint_is_refused(tmp_path):
    content = io.BytesIO()
    torch.save({"x": ["a"] * 100_000}, content)
    with zipfile.ZipFile(content) as whole, zipfile.ZipFile(tmp_path / "a.ckpt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    with pytest.raises(CheckpointError, match="compressed"):
        load_checkpoint(tmp_path / "a.ckpt")


def test_a_legacy_file_cannot_ask_for_more_numbers_than_it_has_bytes(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"w": torch.zeros(70_000)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    # The number of numbers, in the name of the storage and in the shape.
    assert content.count(b"J" + struct.pack("<i", 70_000)) == 2
    path.write_bytes(content.replace(b"J" + struct.pack("<i", 70_000), b"J" + struct.pack("<i", 2_000_000_000)))
    with limits(), pytest.raises(CheckpointError, match="more numbers"):
        load_checkpoint(path)


@pytest.mark.parametrize("command", [["info"], ["convert", "out.safetensors"], ["sample", "--dry_run"]], ids=" ".join)
@pytest.mark.parametrize("name", ["laughs", "cycle", "stride 0", "surrogate"])
def test_every_command_says_so_in_one_line(tmp_path, monkeypatch, capsys, command, name):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"x": torch.zeros(1)}, "hyper_parameters": {"a": HOSTILE[name]()}}, "a.ckpt")
    with limits():
        assert cli.main([command[0], "a.ckpt", *command[1:]]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: a.ckpt")


def test_arrays_of_many_dimensions_are_one_error(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.zeros([1] * 40)}, path)
    with pytest.raises(DataError, match=r"a\.safetensors"):
        open_arrays(path)
    with pytest.raises(CheckpointError, match="40 dimensions"):
        read_state(path)


def npy(shape, header_bytes=118, version=1):
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(header_bytes - 1) + "\n"
    length = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode()


@pytest.mark.parametrize(
    "content",
    [npy((56_000_000,)) + bytes(448_000_000), npy((1,), 100_000_000, version=2) + bytes(8), npy((1,) * 70) + bytes(8)],
    ids=["deflated", "header", "dimensions"],
)
def test_small_statistics_cannot_unpack_to_gigabytes(tmp_path, content):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("mu.npy", content)
        archive.writestr("sigma.npy", npy((1,)) + bytes(8))
    del content
    with limits():
        with pytest.raises(ConfigError, match=r"a\.npz"):
            load_statistics(path)
        with pytest.raises(ConfigError, match=r"a\.npz"):
            list(iter_npz_rows(path, "mu", 1 << 30))


def test_large_statistics_that_compress_well_are_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    assert read_npz(tmp_path / "a.npz")["sigma"].shape == (2048, 2048)


@pytest.fixture(scope="module")
def definition():
    pytest.importorskip("tokenizers")
    return json.loads(json.loads(train_bpe(["low lower lowest new newer"] * 50, 300).to_json())["definition"])


def tokenizer_folder(tmp_path, definition, **changed):
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "tokenizer.json").write_text(json.dumps({**definition, **changed}))
    return tmp_path / "words"


GROW = {"type": "Replace", "pattern": {"String": "e"}, "content": "e" * 30}
WORDS = {"type": "WordPiece", "unk_token": "x", "vocab": {}, "continuing_subword_prefix": "##"}


@pytest.mark.parametrize(
    "changed",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"model": {**WORDS, "max_input_chars_per_word": 10**9}},
        {"model": {"type": "BPE", "vocab": {"a": 2**31}, "merges": []}},
        {"model": None},
    ],
    ids=["panic", "no unknown token", "huge id", "no model"],
)
def test_a_tokenizer_that_cannot_run_is_one_error(tmp_path, definition, changed, capfd):
    folder = tokenizer_folder(tmp_path, definition, **changed)
    with limits(megabytes=2000), pytest.raises(ConfigError) as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_tokenizer_that_never_ends_is_one_error(tmp_path, definition):
    folder = tokenizer_folder(tmp_path, definition, decoder={"type": "Sequence", "decoders": [GROW] * 6})
    with limits(seconds=60, megabytes=2000), pytest.raises(ConfigError, match="too much memory"):
        load_tokenizer(folder)


def test_a_tokenizer_of_other_parts_is_tried_and_read(tmp_path, definition):
    parts = [{"type": "NFC"}, {"type": "Lowercase"}]
    folder = tokenizer_folder(tmp_path, definition, normalizer={"type": "Sequence", "normalizers": parts})
    assert load_tokenizer(folder).encode("LOW") == load_tokenizer(folder).encode("low")


def test_only_byte_level_bpe_is_read_untried(definition, monkeypatch):
    tried, run = [], probe.subprocess.run
    monkeypatch.setattr(probe.subprocess, "run", lambda *words, **options: tried.append(1) or run(*words, **options))
    library = importlib.import_module("tokenizers")
    probe.check_definition.cache_clear()
    probe.check_definition(json.dumps(definition), library)
    assert not tried
    known = {**WORDS, "unk_token": "?", "vocab": {"?": 0}, "max_input_chars_per_word": 100}
    probe.check_definition(json.dumps({**definition, "model": known}), library)
    assert tried


def test_a_tokenizer_of_great_depth_is_one_error(tmp_path, definition):
    folder = tokenizer_folder(tmp_path, definition)
    (folder / "tokenizer_config.json").write_text("[" * 50_000 + "]" * 50_000)
    with limits(), pytest.raises(ConfigError, match=r"tokenizer_config\.json"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").write_text("[" * 50_000 + "]" * 50_000)
    with limits(), pytest.raises(ConfigError, match="nested too deeply"):
        load_tokenizer(folder)
