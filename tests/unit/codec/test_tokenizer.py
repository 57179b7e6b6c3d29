"""Text comes back exactly from token ids, whatever it is, also from a checkpoint's copy of the tokenizer."""

import json
import logging
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitflow.apps.text import tokenizer as tk
from jitflow.apps.text.tokenizer.base import fingerprint_of
from jitflow.errors import CheckpointError, ConfigError, DataError, MissingFileError

tokenizers = pytest.importorskip("tokenizers")

CORPUS = [
    "The cat sat on the mat; the cat sat, and a dog looked on from the other side of the garden wall.",
    "the theatre of the\n\n\tthird kind of people, who are wondering",
    "naïve 漢字 😀 the end",
] * 4
HARD = [
    "",
    "\0",
    "a\0b\0",
    " ",
    "\n\n\n",
    "\r\n\r",
    "\ufeff",
    "é e\u0301",
    "漢字かな",
    "👩‍👩‍👧",
    "\U0010ffff",
    "<|end|><|pad|>",
]


def bpe():
    return tk.train_bpe(CORPUS, 300)


TOKENIZERS = {"bytes": tk.ByteTokenizer(), "bpe": bpe()}


def write_folder(folder, *, config=None, special_map=None, spoil=None):
    """A folder as Hugging Face's libraries write one: bytes, with two special tokens."""
    engine = tokenizers.Tokenizer.from_str(json.loads(TOKENIZERS["bpe"].to_json())["definition"])
    engine.add_special_tokens(["<|end|>", "<|pad|>"])
    engine.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A <|end|>", special_tokens=[("<|end|>", engine.token_to_id("<|end|>"))]
    )
    engine.enable_truncation(3)
    engine.enable_padding(length=8)
    if spoil:
        spoil(engine)
    folder.mkdir(exist_ok=True)
    engine.save(str(folder / "tokenizer.json"))
    for name, content in (("tokenizer_config.json", config), ("special_tokens_map.json", special_map)):
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "mine", config={"eos_token": "<|end|>", "pad_token": {"content": "<|pad|>"}})


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", HARD)
def test_hard_texts_come_back(name, text):
    tokenizer = TOKENIZERS[name]
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=300, deadline=None)
@given(text=st.text())
def test_any_text_comes_back(name, text):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert not {tokenizer.end_id, tokenizer.pad_id} & set(ids)
    # Where the document ends and the padding begins changes nothing.
    assert tokenizer.decode([*ids, tokenizer.end_id, tokenizer.pad_id, tokenizer.pad_id]) == text


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_ids_give_text(name, data):
    tokenizer = TOKENIZERS[name]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    text = tokenizer.decode(ids)
    text.encode("utf-8")
    # What names no token vanishes, in front and behind, also ids a colour can name beyond the vocabulary.
    assert tokenizer.decode([-1, 1 << 24, *ids, tokenizer.vocab_size, tokenizer.pad_id]) == text


def test_the_end_stops_nothing_and_broken_bytes_are_marked():
    tokenizer = TOKENIZERS["bytes"]
    assert (tokenizer.vocab_size, tokenizer.end_id, tokenizer.pad_id) == (258, 256, 257)
    assert tokenizer.encode("é") == [0xC3, 0xA9]
    assert tokenizer.decode([65, 256, 66, 257, 67]) == "ABC"
    assert tokenizer.decode([65, 0xC3, 66]) == "A\ufffdB"
    subword = TOKENIZERS["bpe"]
    first_half = subword.encode("🜲")[0]
    assert "\ufffd" in subword.decode([first_half])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_lone_surrogates_do_no_harm(name):
    tokenizer = TOKENIZERS[name]
    assert tokenizer.decode(tokenizer.encode("a\ud83db")) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode("\ud83d\ude00")) == "😀"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_checkpoint_carries_it_whole(name):
    tokenizer = TOKENIZERS[name]
    copy = tk.tokenizer_from_json(tokenizer.to_json())
    assert type(copy) is type(tokenizer)
    assert copy.encode(CORPUS[2]) == tokenizer.encode(CORPUS[2])
    for field in ("fingerprint", "name", "vocab_size", "end_id", "pad_id"):
        assert getattr(copy, field) == getattr(tokenizer, field)
    assert copy.to_json() == tokenizer.to_json()


def test_fingerprints_tell_tokenizers_apart():
    definition = json.loads(TOKENIZERS["bpe"].to_json())["definition"]
    other = tk.SubwordTokenizer(definition, name="another name")
    assert other.fingerprint == TOKENIZERS["bpe"].fingerprint
    different = [
        tk.ByteTokenizer(),
        other,
        tk.train_bpe(CORPUS, 299),
        tk.SubwordTokenizer(definition, end_id=0, name="x"),
        tk.SubwordTokenizer(definition, end_id=0, pad_id=1, name="x"),
    ]
    assert len({t.fingerprint for t in different}) == len(different)
    assert fingerprint_of("ab", "c") != fingerprint_of("a", "bc")
    assert all(len(t.fingerprint) == 64 for t in different)


def test_special_ids_anywhere():
    definition = json.loads(TOKENIZERS["bpe"].to_json())["definition"]
    # An id of an ordinary token that was made the end is no text any more.
    letter = tk.SubwordTokenizer(definition, end_id=TOKENIZERS["bpe"].encode("k")[0], name="x")
    assert letter.decode(letter.encode("a k b")) == "a  b"
    far = tk.SubwordTokenizer(definition, end_id=500, name="x")
    assert (far.end_id, far.pad_id, far.vocab_size) == (500, 501, 502)
    assert far.decode([*far.encode("the"), *range(298, 502)]) == "the"
    padded = tk.SubwordTokenizer(definition, pad_id=500, name="x")
    assert (padded.end_id, padded.pad_id, padded.vocab_size) == (298, 500, 501)


def test_bpe_learns_what_repeats():
    tokenizer = TOKENIZERS["bpe"]
    assert tokenizer.vocab_size == 300
    assert (tokenizer.end_id, tokenizer.pad_id) == (298, 299)
    assert len(tokenizer.encode(" the")) == 1
    assert len(tokenizer.encode("zqzq")) == 4
    assert len(tokenizer.encode(CORPUS[0])) < len(CORPUS[0]) / 2


def test_bpe_is_the_same_in_every_process():
    code = (
        "from jitflow.apps.text.tokenizer import train_bpe; from jitflow.apps.text.corpus import docstrings\n"
        "import argparse, pathlib; texts = docstrings(pathlib.Path(argparse.__file__).read_bytes())\n"
        "t = train_bpe(texts, 600); assert t.vocab_size == 600; print(t.fingerprint)"
    )
    run = [sys.executable, "-c", code]
    found = {
        subprocess.run(
            run, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_bpe_reads_no_further_than_told(caplog):
    read = []

    def texts():
        for i in range(100):
            read.append(i)
            yield f"word{i} " * 100

    with caplog.at_level(logging.INFO):
        tk.train_bpe(texts(), 300, max_characters=1000)
    assert len(read) == 3
    assert "the first 1200 characters" in caplog.text


def test_a_small_corpus_gives_a_smaller_vocabulary(caplog):
    with caplog.at_level(logging.INFO):
        tokenizer = tk.train_bpe(["abc"], 4096)
    assert tokenizer.vocab_size == 258
    assert "258 tokens instead of 4096" in caplog.text
    assert tokenizer.decode(tokenizer.encode("xyz")) == "xyz"
    assert tk.train_bpe(["a\ud83d"]).vocab_size == 258


def test_bpe_bad_input():
    with pytest.raises(ConfigError, match="at least 258"):
        tk.train_bpe(CORPUS, 257)
    with pytest.raises(DataError, match="no text"):
        tk.train_bpe([])
    with pytest.raises(DataError, match="no text"):
        tk.train_bpe([""])


def test_a_folder_with_its_special_tokens(folder, caplog):
    tokenizer = tk.load_tokenizer(folder)
    assert tokenizer.name == "mine"
    assert (tokenizer.end_id, tokenizer.pad_id, tokenizer.vocab_size) == (298, 299, 300)
    # Neither cut nor filled as the definition asks; and text that spells a special token stays text.
    for text in (*HARD, *CORPUS):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not {298, 299} & set(ids)
    assert not caplog.records
    assert tokenizer.decode([298, *tokenizer.encode("the end"), 299]) == "the end"
    assert tk.load_tokenizer(folder / "tokenizer.json").fingerprint == tokenizer.fingerprint
    copy = tk.tokenizer_from_json(tokenizer.to_json())
    assert copy.fingerprint == tokenizer.fingerprint
    assert copy.encode("the end") == tokenizer.encode("the end")


@pytest.mark.parametrize(
    ("config", "special_map", "expected"),
    [
        (None, None, (300, 301, 302)),
        ({"eos_token": None}, {"eos_token": "<|end|>"}, (298, 300, 301)),
        ({"eos_token": "<|end|>", "pad_token": "<|end|>"}, None, (298, 300, 301)),
        ({"pad_token": "<|pad|>"}, {"pad_token": "<|end|>"}, (300, 299, 301)),
        ({"eos_token": "<not there>"}, {"pad_token": {"content": "<|pad|>"}}, (300, 299, 301)),
        ([], None, (300, 301, 302)),
    ],
)
def test_special_tokens_that_a_folder_lacks_are_added(tmp_path, config, special_map, expected):
    folder = write_folder(tmp_path / "x", config=config, special_map=special_map)
    tokenizer = tk.load_tokenizer(folder)
    assert (tokenizer.end_id, tokenizer.pad_id, tokenizer.vocab_size) == expected
    assert tokenizer.decode([*tokenizer.encode("the"), tokenizer.end_id, tokenizer.pad_id, 298]) == "the"


def test_a_tokenizer_that_loses_text_says_so(tmp_path, caplog):
    def lower(engine):
        engine.normalizer = tokenizers.normalizers.Lowercase()

    folder = write_folder(tmp_path / "lower", spoil=lower)
    tokenizer = tk.load_tokenizer(folder, sample=["ALL CAPITALS", "none"])
    changed = tk.changed_texts(tokenizer, ["Ab", "ab"])
    assert changed == [("Ab", "ab")]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "lower does not give every text back: 4 of 10 sample texts" in record.message
    assert "'The quick" in record.message


@pytest.mark.parametrize("files", [["vocab.json", "merges.txt"], ["tokenizer.model"], ["vocab.txt"]])
def test_folders_of_other_layouts_say_what_is_needed(tmp_path, files):
    for name in files:
        (tmp_path / name).write_text("x")
    with pytest.raises(ConfigError, match=r"no tokenizer\.json") as caught:
        tk.load_tokenizer(tmp_path)
    assert all(name in str(caught.value) for name in files)
    assert "\n" not in str(caught.value)


def test_bad_folders(tmp_path):
    with pytest.raises(MissingFileError, match="is no folder"):
        tk.load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json; a Hugging Face"):
        tk.load_tokenizer(tmp_path)
    for content in ("{", "{}", "[1, 2]"):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ConfigError, match=r"tokenizer\.json: this is no tokenizer"):
            tk.load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        tk.load_tokenizer(tmp_path)


def test_make_tokenizer_by_name(folder):
    assert tk.make_tokenizer("bytes").name == "bytes"
    assert tk.make_tokenizer("bpe:300", CORPUS).fingerprint == TOKENIZERS["bpe"].fingerprint
    assert tk.make_tokenizer("bpe", CORPUS).name == "bpe:4096"
    assert tk.make_tokenizer(str(folder), CORPUS).name == "mine"
    with pytest.raises(ConfigError, match="did you mean bytes"):
        tk.make_tokenizer("byte")
    with pytest.raises(ConfigError, match="bpe:4096"):
        tk.make_tokenizer("bpe:many", CORPUS)
    with pytest.raises(MissingFileError, match="no folder"):
        tk.make_tokenizer("./nowhere")


def test_make_tokenizer_measures_a_folder_on_the_texts(tmp_path, caplog):
    def strip(engine):
        engine.normalizer = tokenizers.normalizers.Replace("qqq", "")

    folder = write_folder(tmp_path / "x", spoil=strip)
    tk.make_tokenizer(str(folder))
    assert not caplog.records
    tk.make_tokenizer(str(folder), (text for text in ["fine", "aqqqb"]))
    assert "1 of 10 sample texts changed, such as 'aqqqb' to 'ab'" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"kind": "subword"}',
        '{"kind": "subword", "definition": "{}", "end_id": 1, "pad_id": 2, "name": "x"}',
        json.dumps({**json.loads(TOKENIZERS["bpe"].to_json()), "end_id": "1"}),
        '{"kind": "subword", "definition": 3, "end_id": 1, "pad_id": 2, "name": "x"}',
        json.dumps({**json.loads(TOKENIZERS["bpe"].to_json()), "end_id": -1}),
    ],
)
def test_a_damaged_definition(text):
    with pytest.raises(CheckpointError, match="damaged"):
        tk.tokenizer_from_json(text)


def test_an_unknown_kind():
    with pytest.raises(CheckpointError, match="unknown kind 'words'; update"):
        tk.tokenizer_from_json('{"kind": "words"}')


def test_without_the_library(monkeypatch):
    definition = TOKENIZERS["bpe"].to_json()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert tk.make_tokenizer("bytes").decode([65]) == "A"
    for call in (lambda: tk.make_tokenizer("bpe", CORPUS), lambda: tk.tokenizer_from_json(definition)):
        with pytest.raises(ConfigError, match=r"pip install 'jitflow\[text\]'"):
            call()
