"""Token stores: every document with its end, and what is held out."""

import logging

import numpy as np
import pytest
from letters import Letters, read

from jitflow.apps.text.files import Piece
from jitflow.apps.text.token_store import TextList, open_tokens, store_name, write_tokens
from jitflow.errors import DataError


def test_tokens_are_stored_with_an_end_behind_each_document(tmp_path):
    source = TextList(["abc", "", "de"])
    write_tokens(tmp_path / "x" / "t.safetensors", source, Letters())
    train, val = open_tokens(tmp_path / "x" / "t.safetensors")
    assert read(train.ids) == "abc||de|"
    assert train.ends.tolist() == [4, 5, 8]
    assert (train.num_tokens, train.num_documents) == (8, 3)
    assert (val.num_tokens, val.num_documents) == (0, 0)
    assert isinstance(train.ids, np.memmap)
    assert train.ids.dtype == np.int16
    # Nothing half-made stays behind.
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["t.safetensors"]


def test_pieces_of_a_document_are_joined(tmp_path):
    class Pieces:
        size = 4

        def pieces(self):
            yield from (Piece("ab", True, 1), Piece("cd", False, 2), Piece("", False, 3), Piece("e", True, 4))

    calls = []
    write_tokens(tmp_path / "t", Pieces(), Letters(), progress=lambda done, total: calls.append((done, total)))
    train, _ = open_tokens(tmp_path / "t")
    assert read(train.ids) == "abcd|e|"
    assert train.ends.tolist() == [5, 7]
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_large_vocabularies_are_stored_whole(tmp_path):
    tokenizer = Letters()
    tokenizer.vocab_size = 151_670
    tokenizer.encode = lambda text: [151_000, 40_000, 0]
    write_tokens(tmp_path / "t", TextList(["x"]), tokenizer)
    assert open_tokens(tmp_path / "t")[0].ids.tolist() == [151_000, 40_000, 0, 128]
    tokenizer.vocab_size = 1 << 15
    tokenizer.encode = lambda text: [(1 << 15) - 1]
    write_tokens(tmp_path / "u", TextList(["x"]), tokenizer)
    ids = open_tokens(tmp_path / "u")[0].ids
    assert ids.tolist() == [(1 << 15) - 1, 128]
    assert ids.dtype == np.int16


@pytest.mark.parametrize("wrong", [130, -1])
def test_a_tokenizer_whose_ids_are_out_of_range(tmp_path, wrong):
    tokenizer = Letters()
    tokenizer.encode = lambda text: [5, wrong]
    with pytest.raises(DataError, match="vocabulary is 130"):
        write_tokens(tmp_path / "t", TextList(["x"]), tokenizer)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="no text"):
        write_tokens(tmp_path / "t", TextList([]), Letters())


def test_documents_are_held_out_whole_and_copies_together(tmp_path):
    texts = [f"document {i} " * (1 + i % 7) for i in range(1000)]
    write_tokens(tmp_path / "a", TextList(texts), Letters(), val_fraction=0.1)
    write_tokens(tmp_path / "b", TextList([*texts[500:], *texts]), Letters(), val_fraction=0.1)
    sides = []
    for name in "ab":
        streams = open_tokens(tmp_path / name)
        sides.append([read(stream.ids).split("|")[:-1] for stream in streams])
        assert [stream.num_documents for stream in streams] == [len(side) for side in sides[-1]]
    (train, val), (train_b, val_b) = sides
    assert sorted(train + val) == sorted(texts)
    assert 70 < len(val) < 130
    assert (set(train_b), set(val_b)) == (set(train), set(val))
    assert train == [text for text in texts if text in set(train)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_few_documents_hold_out_the_end(tmp_path, count, caplog):
    with caplog.at_level(logging.INFO):
        write_tokens(tmp_path / "t", TextList([chr(97 + i) * 9999 for i in range(count)]), Letters(), val_fraction=0.05)
    train, val = open_tokens(tmp_path / "t")
    if "are held out" in caplog.text:
        assert val.num_tokens == round(count * 10_000 * 0.05)
        assert val.ends.tolist() == [val.num_tokens]
        assert train.num_documents == count
    assert count > 3 or "are held out" in caplog.text
    assert train.num_tokens + val.num_tokens == count * 10_000
    assert train.ends[-1] == train.num_tokens
    assert val.num_tokens <= 0.15 * count * 10_000


def test_training_is_never_left_without_text(tmp_path):
    for letter in "abcdefgh":
        path = tmp_path / letter
        write_tokens(path, TextList([letter * 999]), Letters(), val_fraction=0.5)
        assert [stream.num_tokens for stream in open_tokens(path)] == [500, 500]


def test_a_page_is_not_torn(tmp_path):
    write_tokens(tmp_path / "t", TextList(["a page " * 500]), Letters(), val_fraction=0.05)
    train, val = open_tokens(tmp_path / "t")
    assert (train.num_tokens, val.num_tokens) == (3501, 0)
    assert train.ends.tolist() == [3501]


def test_a_store_is_named_after_what_it_depends_on():
    tokenizer, other, third = Letters(), Letters(), Letters()
    other.fingerprint, third.end_id = "other", 127
    source = TextList(["ab", "c"])
    names = [
        store_name(source, tokenizer, 0.1),
        store_name(TextList(["a", "bc"]), tokenizer, 0.1),
        store_name(source, other, 0.1),
        store_name(source, third, 0.1),
        store_name(source, tokenizer, 0.2),
    ]
    assert len(set(names)) == 5
    assert store_name(TextList(["ab", "c"]), Letters(), 0.1) == names[0]


def test_no_tokens_in_a_file_of_other_arrays(tmp_path):
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(3)}, tmp_path / "t")
    with pytest.raises(DataError, match="holds no tokens"):
        open_tokens(tmp_path / "t")
