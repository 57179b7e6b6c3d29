"""Windows of token ids hold the text, all of it, and are a function of (seed, epoch, index)."""

import json
import logging
import warnings

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from jitflow.apps.text.data import TextDataModule
from jitflow.apps.text.files import Piece
from jitflow.apps.text.token_store import TextList, TokenStream, open_tokens, store_name, write_tokens
from jitflow.apps.text.windows import DocumentWindows, EpochWindows, PackedWindows
from jitflow.errors import CheckpointError, ConfigError, DataError, MissingFileError
from jitflow.training.lightning_counters import ExactResume


class Letters:
    """One id a character, as little as the data need of a tokenizer."""

    vocab_size, end_id, pad_id = 130, 128, 129
    fingerprint = "letters"

    def __init__(self):
        self.num_calls = 0

    def encode(self, text):
        self.num_calls += 1
        return list(text.encode("ascii"))


def read(ids):
    """Ids as text, ends as | and padding as _."""
    return "".join({128: "|", 129: "_"}.get(i, chr(i)) for i in ids.tolist() if i < 130)


def stream_of(*documents):
    ids = np.concatenate([[*map(ord, text), 128] for text in documents]).astype(np.int16)
    return TokenStream(ids, np.cumsum([len(text) + 1 for text in documents]))


def epoch_of(windows, epoch, seed=0):
    return [read(row) for row in windows.read_epoch(torch.arange(len(windows)), seed, epoch)]


DOCUMENTS = ["abcdefghij", "kl", "mnopqrs", "", "tuvwxyzABCDEFGHI"]
STREAM = "abcdefghij|kl|mnopqrs||tuvwxyzABCDEFGHI|"


def write_corpus(folder, count=40):
    folder.mkdir(parents=True, exist_ok=True)
    texts = [f"document {i}: " + chr(97 + i % 26) * (i * 7 % 50) for i in range(count)]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, texts)))
    return texts


def make(path, **options):
    return TextDataModule(path, Letters(), 16, **{"batch_size": 4, "seed": 5, **options})


def rows(loader):
    return {int(i): read(row) for batch in loader for i, row in zip(batch.index, batch.images, strict=True)}


def test_packed_windows_without_offset():
    windows = PackedWindows(stream_of(*DOCUMENTS), 6, 129)
    assert len(windows) == 7
    assert windows.num_padding == 2
    assert "".join(epoch_of(windows, 3)) == STREAM + "__"
    ids, labels = windows.read_batch(torch.tensor([6, 0]))
    assert [read(row) for row in ids] == [STREAM[36:] + "__", "abcdef"]
    assert ids.dtype == labels.dtype == torch.int64
    assert labels.tolist() == [0, 0]
    assert read(windows[1][0]) == "ghij|k"


def test_packed_windows_enter_the_ring_elsewhere_each_epoch():
    windows = PackedWindows(stream_of(*DOCUMENTS), 6, 129, random_offset=True)
    assert windows.num_padding == 0
    starts = set()
    for epoch in range(30):
        text = "".join(epoch_of(windows, epoch))
        starts.add((STREAM + STREAM).index(text[:40]))
        assert text[40:] == text[:2]  # fewer than a window are seen twice
    assert len(starts) > 15
    assert epoch_of(windows, 7) == epoch_of(windows, 7)
    assert epoch_of(windows, 7) != epoch_of(windows, 7, seed=1)
    # At rest it is the same every time.
    assert read(windows[0][0]) == "abcdef"


def test_a_stream_shorter_than_a_window_is_not_shifted():
    windows = PackedWindows(stream_of("abc"), 6, 129, random_offset=True)
    assert epoch_of(windows, 1) == epoch_of(windows, 2) == ["abc|__"]
    assert windows.num_padding == 2
    exact = PackedWindows(stream_of("abcde"), 6, 129, random_offset=True)
    assert len({epoch_of(exact, epoch)[0] for epoch in range(20)}) > 2


def test_document_windows():
    windows = DocumentWindows(stream_of(*DOCUMENTS), 6, 129)
    expected = ["abcdef", "ghij|_", "kl|___", "mnopqr", "s|____", "|_____", "tuvwxy", "zABCDE", "FGHI|_"]
    assert epoch_of(windows, 0) == epoch_of(windows, 5) == expected
    assert len(windows) == 9
    assert windows.num_split == 3
    assert windows.num_padding == "".join(expected).count("_") == 14


def test_document_windows_move_inside_each_document():
    windows = DocumentWindows(stream_of(*DOCUMENTS, "abcdefghijk"), 6, 129, random_offset=True)
    seen = set()
    for epoch in range(40):
        found = epoch_of(windows, epoch)
        # Every token once an epoch, and no window across two documents.
        text = [row.replace("_", "") for row in found]
        assert ["".join(text[a:b]) for a, b in ((0, 2), (2, 3), (3, 5), (5, 6), (6, 9))] == [d + "|" for d in DOCUMENTS]
        assert all(row == row.replace("_", "").ljust(6, "_") for row in found)
        assert found[9:] == ["abcdef", "ghijk|"]  # no room to move
        seen.add((found[0], found[3], found[6]))
    assert len({first for first, *_ in seen}) == 2
    assert len({third for *_, third in seen}) == 2
    assert {second for _, second, _ in seen} == {"mnopqr"[:n].ljust(6, "_") for n in (2, 3, 4, 5, 6)}
    # Documents with equal room move independently of each other.
    assert len({(first, third) for first, _, third in seen}) == 4


def test_epoch_windows_take_the_keys_of_a_sampler():
    windows = PackedWindows(stream_of(*DOCUMENTS), 6, 129, random_offset=True)
    data = EpochWindows(windows, seed=3)
    batch = data.__getitems__([(4, 2), (4, 0)])
    assert [read(row) for row in batch.images] == [epoch_of(windows, 4, 3)[i] for i in (2, 0)]
    assert batch.epoch == 4
    assert batch.index.tolist() == [2, 0]
    image, label, index, epoch = data[(4, 2)]
    assert (read(image), label, index, epoch) == (epoch_of(windows, 4, 3)[2], 0, 2, 4)
    assert data.__getitems__([1]).epoch == 0
    assert len(data) == 7


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


def test_module_gives_the_text_and_says_how(tmp_path, caplog):
    texts = write_corpus(tmp_path)
    with caplog.at_level(logging.INFO):
        data = make(tmp_path, val_fraction=0.2, drop_last=False, random_offset=False)
        info = data.get_dataset_info()
    train, val = rows(data.train_dataloader()), rows(data.val_dataloader())
    assert (len(train), len(val)) == (info["num_samples"], info["num_val_samples"])
    found = ["".join(side[i] for i in range(len(side))).rstrip("_").split("|")[:-1] for side in (train, val)]
    assert sorted(found[0] + found[1]) == sorted(texts)
    assert len(found[1]) > 2
    assert info["vocab_size"] == 130
    assert info["tokenizer"] == "letters"
    assert info["num_tokens"] == 16
    assert info["num_documents"] == len(found[0])
    assert info["num_corpus_tokens"] == sum(len(text) + 1 for text in found[0])
    assert info["num_classes"] == 1
    assert info["padding_share"] == pytest.approx("".join(train.values()).count("_") / (16 * len(train)))
    assert f"training text: {len(found[0])} documents (packed)" in caplog.text
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (4, 16)
    assert batch.images.dtype == torch.int64
    assert batch.labels.tolist() == [0] * 4


def test_module_with_a_document_per_window(tmp_path, caplog):
    texts = write_corpus(tmp_path)
    with caplog.at_level(logging.INFO):
        data = make(tmp_path, val_fraction=0, pack=False, drop_last=False)
        data.setup()
    num_split = sum(len(text) + 1 > 16 for text in texts)
    assert f"40 documents ({num_split} longer than a window and split)" in caplog.text
    assert data.val_dataloader() == []
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    found = rows(data.train_dataloader())
    text = "".join(found[i].rstrip("_") for i in range(len(found)))
    assert text == "".join(text + "|" for text in texts)


def test_windows_differ_between_epochs_and_not_in_validation(tmp_path):
    write_corpus(tmp_path)
    data = make(tmp_path, val_fraction=0.2, drop_last=False)
    epochs = []
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        epochs.append(rows(data.train_dataloader()))
    assert epochs[0] == epochs[2]
    assert epochs[0] != epochs[1]
    assert rows(data.val_dataloader()) == rows(data.val_dataloader())
    assert rows(make(tmp_path, val_fraction=0.2, drop_last=False, num_workers=2).train_dataloader()) == epochs[0]
    assert rows(make(tmp_path, val_fraction=0.2, drop_last=False, seed=6).train_dataloader()) != epochs[0]


def test_val_path_is_read_whole_and_data_path_too(tmp_path):
    texts = write_corpus(tmp_path / "train")
    others = write_corpus(tmp_path / "val", 7)
    data = make(tmp_path / "train", val_path=tmp_path / "val", drop_last=False)
    assert data.get_dataset_info()["num_documents"] == len(texts)
    found = rows(data.val_dataloader())
    assert "".join(found[i] for i in range(len(found))).rstrip("_").split("|")[:-1] == others


def test_cache_is_written_once(tmp_path):
    write_corpus(tmp_path / "data")
    write_corpus(tmp_path / "val", 7)
    cache = tmp_path / "out" / "tokens"

    def calls(**options):
        data = make(tmp_path / "data", cache_dir=cache, **options)
        data.prepare_data()
        prepared = data.tokenizer.num_calls
        data.setup()
        assert data.tokenizer.num_calls == prepared
        return prepared

    assert calls(val_path=tmp_path / "val") == 47
    assert len(list(cache.iterdir())) == 2
    assert calls(val_path=tmp_path / "val") == 0
    assert calls(val_fraction=0) == 0
    assert calls(val_fraction=0.1) == 40
    assert {path.suffix for path in cache.iterdir()} == {".safetensors"}


def test_without_a_cache_nothing_stays(tmp_path, monkeypatch):
    import gc
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    write_corpus(tmp_path / "data")
    data = make(tmp_path / "data")
    data.prepare_data()
    assert not list((tmp_path / "tmp").iterdir())
    data.setup()
    assert list((tmp_path / "tmp").iterdir())
    del data
    gc.collect()
    assert not list((tmp_path / "tmp").iterdir())


def test_builtin_corpus_is_said_and_keeps_its_split(monkeypatch, caplog):
    from jitflow.apps.text import corpus

    documents = (("module m0", "train text " * 40), ("module m6", "held out text " * 40))
    monkeypatch.setattr(corpus, "builtin_texts", lambda: documents)
    with caplog.at_level(logging.INFO):
        data = make(None, random_offset=False, drop_last=False)
        train, val = rows(data.train_dataloader()), rows(data.val_dataloader())
    assert "".join(train[i] for i in range(len(train))).rstrip("_") == documents[0][1] + "|"
    assert "".join(val[i] for i in range(len(val))).rstrip("_") == documents[1][1] + "|"
    lines = [record.message for record in caplog.records if "no data_path" in record.message]
    assert len(lines) == 1 and "built-in corpus" in lines[0] and "in 1 documents" in lines[0]


def test_too_short_to_hold_out(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("a page " * 100)
    data = make(tmp_path / "a.txt")
    assert data.val_dataloader() == []
    assert "too short to hold a part of it out" in caplog.text
    assert data.get_dataset_info()["num_val_samples"] == 0


def test_bad_input(tmp_path):
    with pytest.raises(ConfigError, match="num_tokens must be at least 1"):
        TextDataModule(tmp_path, Letters(), 0)
    for wrong in (-0.1, 0.6):
        with pytest.raises(ConfigError, match="val_fraction"):
            make(tmp_path, val_fraction=wrong)
    with pytest.raises(MissingFileError, match="nowhere"):
        make(tmp_path / "nowhere").prepare_data()
    with pytest.raises(DataError, match="empty"):
        make(tmp_path).prepare_data()
    write_corpus(tmp_path)
    with pytest.raises(MissingFileError, match="nowhere"):
        make(tmp_path, val_path=tmp_path / "nowhere").prepare_data()
    with pytest.raises(DataError, match="too few for 1 x batch_size=1000"):
        make(tmp_path, batch_size=1000).train_dataloader()


class Recorder(ExactResume):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(16, 1)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((batch.epoch, batch.index.tolist(), batch.images.tolist()))
        return self.layer(batch.images.float()).mean() * 1e-6

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Interruption(Exception):
    pass


class SaveAndStop(pl.Callback):
    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise Interruption


def fit(data, *callbacks, ckpt_path=None):
    recorder = Recorder()
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = pl.Trainer(accelerator="cpu", max_epochs=3, callbacks=[*callbacks], **dict.fromkeys(quiet, False))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*no `val_dataloader`.*|.*validation_step.*")
        warnings.filterwarnings("ignore", message=".*skipping val loop.*")
        try:
            trainer.fit(recorder, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
        except Interruption:
            trainer.fit_loop.teardown()
    return recorder.seen


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_inside_an_epoch_equals_an_uninterrupted_run(tmp_path, pack, workers):
    write_corpus(tmp_path / "data")
    options = {"pack": pack, "num_workers": workers, "cache_dir": tmp_path / "tokens"}
    whole = fit(make(tmp_path / "data", **options))
    per_epoch = len(whole) // 3
    assert per_epoch > 10
    texts = [[ids for e, _, rows in whole if e == epoch for ids in rows] for epoch in range(3)]
    assert sorted(texts[0]) != sorted(texts[1])
    path = tmp_path / "x.ckpt"
    step = per_epoch + 4
    first = fit(make(tmp_path / "data", **options), SaveAndStop(step, path))
    assert len(first) == step
    second = fit(make(tmp_path / "data", **options), ckpt_path=path)
    assert first + second == whole


def test_resume_with_another_tokenizer_is_an_error(tmp_path):
    write_corpus(tmp_path / "data")
    data = make(tmp_path / "data")
    data.train_dataloader()
    state = data.state_dict()
    again = make(tmp_path / "data")
    again.load_state_dict(state)
    assert rows(again.train_dataloader()) == rows(data.train_dataloader())
    other = make(tmp_path / "data")
    other.tokenizer.fingerprint = "another-one-altogether"
    with pytest.raises(CheckpointError, match=r"tokenizer letters \(now another-one-\)"):
        other.load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"pack True \(now F.*random_offset True"):
        make(tmp_path / "data", pack=False, random_offset=False).load_state_dict(state)
    before = make(tmp_path / "data")
    before.load_state_dict({})
    before.load_state_dict(before.state_dict())
