"""The data module of text: batches hold the corpus, say how, and go on where a run stopped."""

import json
import logging
import warnings

import lightning.pytorch as pl
import pytest
import torch
from letters import Letters, read

from jitflow.apps.text.data import TextDataModule
from jitflow.errors import CheckpointError, ConfigError, DataError, MissingFileError
from jitflow.training.lightning_counters import ExactResume


def write_corpus(folder, count=40):
    folder.mkdir(parents=True, exist_ok=True)
    texts = [f"document {i}: " + chr(97 + i % 26) * (i * 7 % 50) for i in range(count)]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, texts)))
    return texts


def make(path, **options):
    return TextDataModule(path, Letters(), 16, **{"batch_size": 4, "seed": 5, **options})


def rows(loader):
    return {int(i): read(row) for batch in loader for i, row in zip(batch.index, batch.images, strict=True)}


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
    with pytest.raises(DataError, match=r"windows of text .*batch_size 1000"):
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
