"""Documents come out of files as they were put in, and what is wrong with a file is named."""

import gc
import io
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitflow.apps.text import encoding as text_encoding
from jitflow.apps.text import files as text_files
from jitflow.apps.text import json_stream
from jitflow.apps.text.encoding import detect_encoding
from jitflow.apps.text.files import TextFiles, document_text, split_text
from jitflow.apps.text.json_stream import iter_json_values
from jitflow.errors import ConfigError, DataError, MissingFileError


def documents(source):
    found = []
    for piece in source.pieces():
        if piece.starts:
            found.append("")
        found[-1] += piece.text
    return found


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content, encoding="utf-8", newline="")
    return path


def test_a_folder_of_everything(tmp_path, caplog):
    caplog.set_level("INFO")
    write(tmp_path / "b.txt", "a text\r\nof two lines")
    write(tmp_path / "a" / "x.json", json.dumps(["one", {"text": "two\r\n"}, {"prompt": "3?", "answer": "three"}]))
    write(tmp_path / "c.JSONL", '"four"\n\n{"text": "fünf", "id": 5}\n')
    write(tmp_path / ".hidden" / "z.txt", "no")
    source = TextFiles(tmp_path)
    assert documents(source) == ["one", "two\r\n", "3?\nthree", "a text\nof two lines", "four", "fünf"]
    assert source.num_documents == 6
    assert source.num_bad == 0
    assert [file.name for file in source.files] == ["x.json", "b.txt", "c.JSONL"]
    assert source.size == sum(file.stat().st_size for file in source.files)
    assert [".hidden/" in record.getMessage() for record in caplog.records] == [True]
    assert list(TextFiles(tmp_path / "b.txt").texts()) == ["a text\nof two lines"]


def test_positions_rise_to_the_size(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.txt", "word " * 200_000)
        write(tmp_path / f"{i}.jsonl", '"line"\n' * 1000)
    source = TextFiles(tmp_path)
    positions = [piece.position for piece in source.pieces()]
    assert positions == sorted(positions)
    assert positions[-1] == source.size
    assert len(set(positions)) > 10
    # A long document is many pieces of one.
    assert len(positions) > source.num_documents == 3003


def test_fingerprint_changes_with_the_files(tmp_path):
    import os

    a = write(tmp_path / "a.txt", "text")
    first = TextFiles(tmp_path).fingerprint()
    assert TextFiles(tmp_path).fingerprint() == first
    assert TextFiles(tmp_path, encoding="latin-1").fingerprint() != first
    state = a.stat()
    write(a, "tex2")
    os.utime(a, ns=(state.st_atime_ns, state.st_mtime_ns + 5_000_000_000))
    second = TextFiles(tmp_path).fingerprint()
    a.rename(tmp_path / "b.txt")
    third = TextFiles(tmp_path).fingerprint()
    assert len({first, second, third}) == 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be-mark"])
@pytest.mark.parametrize("suffix", [".txt", ".json", ".jsonl"])
def test_encodings_with_and_without_a_mark(tmp_path, encoding, suffix, caplog):
    text = "naïve 漢字 😀\n" * 3
    content = {".txt": text, ".json": json.dumps([text], ensure_ascii=False), ".jsonl": json.dumps(text) + "\n"}[suffix]
    data = b"\xfe\xff" + content.encode("utf-16-be") if encoding.endswith("mark") else content.encode(encoding)
    assert documents(TextFiles(write(tmp_path / f"a{suffix}", data))) == [text]
    assert not caplog.records


def test_other_encodings_fall_back_and_are_named_once(tmp_path, caplog):
    text = "Käse, façade, naïve, “déjà vu”"
    write(tmp_path / "old.txt", text.encode("cp1252"))
    write(tmp_path / "good.txt", text)
    source = TextFiles(tmp_path)
    assert documents(source) == [text, text]
    assert documents(source) == [text, text]
    (record,) = caplog.records
    assert "1 files" in record.message
    assert "old.txt (not UTF-8; read as cp1252)" in record.message
    assert "good.txt" not in record.message


def test_an_encoding_given_wins(tmp_path, caplog):
    write(tmp_path / "a.txt", "漢字".encode("gb18030"))
    assert documents(TextFiles(tmp_path, encoding="gb18030")) == ["漢字"]
    assert not caplog.records
    for wrong in ("utf-9", "rot13"):
        with pytest.raises(ConfigError, match=wrong):
            TextFiles(tmp_path, encoding=wrong)
    with pytest.raises(DataError, match=r"a\.txt cannot be decoded"):
        documents(TextFiles(tmp_path, encoding="utf-16"))


def test_few_damaged_characters_do_not_change_the_encoding(tmp_path, monkeypatch, caplog):
    # Blocks that end inside a character are no damage.
    monkeypatch.setattr(text_encoding, "BLOCK_BYTES", 7)
    good = "naïve 漢字 " * 20
    path = write(tmp_path / "a.txt", good.encode() + b"\xff end")
    assert documents(TextFiles(tmp_path)) == [good + "\ufffd end"]
    assert "1 damaged characters" in caplog.text
    write(path, good)
    assert detect_encoding(path) == text_encoding.Encoding("utf-8")
    # Cut off inside the last character.
    write(path, good.encode() + "漢".encode()[:2])
    assert detect_encoding(path).doubt == "1 damaged characters, replaced by U+FFFD"
    write(path, "text".encode("utf-16-le"))
    assert "zero bytes" in detect_encoding(path).doubt
    write(path, b"")
    assert detect_encoding(path).doubt == ""


def test_bad_records_are_counted_and_the_first_named(tmp_path, caplog):
    lines = ['{"text": "good"}', '{"text": 5}', "{", "", '{"prompt": "p"}', "7", "null", "[]", "true", '"good too"']
    write(tmp_path / "a.jsonl", "\n".join(lines))
    write(tmp_path / "b.json", '["fine", 3, {"answer": "x", "prompt": "p"}]')
    source = TextFiles(tmp_path)
    assert documents(source) == ["good", "good too", "fine", "p\nx"]
    assert source.num_bad == 8
    assert source.bad[0] == "a.jsonl:2: text is no string"
    assert source.bad[1].startswith("a.jsonl:3: no JSON (Expecting property name")
    assert source.bad[2:] == [
        "a.jsonl:5: neither text nor prompt and answer",
        "a.jsonl:6: a number instead of a string or an object",
        "a.jsonl:7: a null instead of a string or an object",
    ]
    (record,) = caplog.records
    assert record.message.startswith(f"8 records of {tmp_path} left out: a.jsonl:2: text")
    assert record.message.endswith(", ...")
    assert documents(source)
    assert source.num_bad == 8


def test_a_bad_item_of_a_list_is_named_by_its_number(tmp_path):
    source = TextFiles(write(tmp_path / "b.json", '["fine", 3]'))
    assert documents(source) == ["fine"]
    assert source.bad == ["b.json: item 2: a number instead of a string or an object"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"text": None, "prompt": "p", "answer": "a"}, "text is no string"),
        ({"prompt": "p", "answer": 1}, "answer is no string"),
        ({}, "neither"),
        (False, "a boolean"),
        ([], "a list"),
        (1.5, "a number"),
    ],
)
def test_records_without_text(value, reason):
    with pytest.raises(ValueError, match=reason):
        document_text(value)


def test_hostile_lines_do_not_stop_the_reading(tmp_path):
    source = TextFiles(write(tmp_path / "a.jsonl", "[" * 100_000 + "\n" + "9" * 5000 + '\n"\\ud83d alone"\n'))
    assert documents(source) == ["\ufffd alone"]
    assert source.num_bad == 2


def test_blank_documents_are_left_out(tmp_path):
    write(tmp_path / "a.txt", " \n\t\n")
    write(tmp_path / "b.txt", "")
    write(tmp_path / "c.jsonl", '""\n" "\n"x"\n')
    source = TextFiles(tmp_path)
    assert documents(source) == ["x"]
    assert source.num_documents == 1


def test_nothing_to_read(tmp_path):
    with pytest.raises(MissingFileError, match="nowhere does not exist"):
        TextFiles(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"is empty; known are \.txt"):
        TextFiles(tmp_path)
    write(tmp_path / "a.pdf", "x")
    with pytest.raises(DataError, match=r"unknown types \(a\.pdf\); known"):
        TextFiles(tmp_path)
    with pytest.raises(DataError, match=r"a\.pdf is of an unknown type; known"):
        TextFiles(tmp_path / "a.pdf")
    write(tmp_path / "b.jsonl", "{}\n")
    with pytest.raises(DataError, match=r"no text .*1 unusable .*b\.jsonl:1"):
        documents(TextFiles(tmp_path))
    write(tmp_path / "b.jsonl", "\n")
    with pytest.raises(DataError, match=r"no text in [^(]*; known"):
        documents(TextFiles(tmp_path))


def test_unknown_types_beside_known_ones_are_named(tmp_path, caplog):
    write(tmp_path / "a.txt", "x")
    for i in range(7):
        write(tmp_path / f"{i}.csv", "x")
    TextFiles(tmp_path)
    assert "7 files" in caplog.text
    assert "0.csv, 1.csv, 2.csv, 3.csv, 4.csv, ..." in caplog.text


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="ab \n\u3000漢", max_size=80), size=st.integers(1, 12))
def test_pieces_join_to_the_text(text, size):
    pieces = list(split_text(io.StringIO(text), size))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= size for piece in pieces)


def test_pieces_tear_no_word():
    text = "alpha beta  gamma\n\n delta epsilon zeta " * 10
    pieces = list(split_text(io.StringIO(text), 50))
    assert len(pieces) > 8
    assert [word for piece in pieces for word in piece.split()] == text.split()
    assert all(piece[0].isspace() and not piece[-1].isspace() for piece in pieces[1:-1])


def test_pieces_do_not_change_the_tokens_of_a_byte_pair_tokenizer():
    tokenizers = pytest.importorskip("tokenizers")
    engine = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = "It's   a  text\n\n\n with\tall 12 kinds…  of blanks   \n" * 30

    def words(part):
        return [word for word, _ in engine.pre_tokenize_str(part)]

    for size in range(30, 80, 7):
        assert [w for piece in split_text(io.StringIO(text), size) for w in words(piece)] == words(text)


def test_a_long_text_is_read_in_bounded_memory(tmp_path):
    path = write(tmp_path / "a.txt", "some words again and again\n" * 1_000_000)
    longest, total = 0, 0
    gc.collect()
    tracemalloc.start()
    for piece in TextFiles(path).pieces():
        longest, total = max(longest, len(piece.text)), total + len(piece.text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == path.stat().st_size
    assert longest <= text_files.PIECE
    assert peak < 12e6 < path.stat().st_size / 2


def test_a_long_list_is_read_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "BLOCK_CHARACTERS", 1 << 14)
    monkeypatch.setattr(text_encoding, "BLOCK_BYTES", 1 << 14)
    path = write(tmp_path / "a.json", "[" + ",\n".join(['{"text": "' + "word " * 100 + '"}'] * 5000) + "]")
    count = 0
    gc.collect()
    tracemalloc.start()
    for _ in TextFiles(path).pieces():
        count += 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 5000
    assert peak < 4e5 < path.stat().st_size / 6


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(JSON, max_size=6), block=st.integers(1, 20), indent=st.sampled_from([None, 1]), ascii=st.booleans()
)
def test_json_lists_of_any_content_and_blocks(values, block, indent, ascii):
    old = json_stream.BLOCK_CHARACTERS
    json_stream.BLOCK_CHARACTERS = block
    try:
        text = f" {json.dumps(values, indent=indent, ensure_ascii=ascii)}\n"
        assert list(iter_json_values(io.StringIO(text), "x")) == values
    finally:
        json_stream.BLOCK_CHARACTERS = old


def test_json_values_without_a_list():
    text = '{"a": 1}\n{"b": [2]} "c"\n'
    assert list(iter_json_values(io.StringIO(text), "x")) == [{"a": 1}, {"b": [2]}, "c"]
    assert list(iter_json_values(io.StringIO(" \n"), "x")) == []


@pytest.mark.parametrize("block", [1, 5, 1000])
@pytest.mark.parametrize(
    ("text", "count", "reason"),
    [
        ('["a",\n"b"', 2, "line 2: expected , or ]"),
        ('["a",\n', 1, "line 2: the list has no end; the file was truncated"),
        ('["a"\n,\n{"b": ', 1, "line 3: Expecting value"),
        ('["a", "b', 1, "line 1: Unterminated string"),
        ('["a" "b"]', 1, "line 1: expected , or ]"),
        ('["a"]\n\n["b"]', 1, "line 3: there is text after the list"),
        ("[] x", 0, "line 1: there is text after the list"),
        ("[", 0, "line 1: the list has no end"),
        ('\n["a", b]', 1, "line 2: Expecting value"),
        ('["a",]', 1, "line 1: Expecting value"),
        ("[" * 100_000, 0, "line 1: it is nested too deeply"),
        ("<html>", 0, "line 1: Expecting value"),
    ],
)
def test_damaged_lists_name_file_and_line(monkeypatch, text, count, reason, block):
    if block < 1000 < len(text):
        block = 30_000
    monkeypatch.setattr(json_stream, "BLOCK_CHARACTERS", block)
    found = []
    values = iter_json_values(io.StringIO(text), "dir/x.json")
    with pytest.raises(DataError) as caught:
        while True:
            found.append(next(values))
    assert str(caught.value).startswith("dir/x.json is not valid JSON: " + reason)
    assert len(found) == count


def test_a_mistake_early_in_a_long_list_is_found_early(monkeypatch):
    monkeypatch.setattr(json_stream, "BLOCK_CHARACTERS", 1000)
    stream = io.StringIO('["a", wrong, "' + "x" * 100_000)
    with pytest.raises(DataError):
        list(iter_json_values(stream, "x"))
    assert stream.tell() == 1000
