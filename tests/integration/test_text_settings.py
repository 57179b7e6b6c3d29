"""Settings of a text training: tokenizers, mappings, recipes, and what cannot work."""

from __future__ import annotations

import json
import shutil

import lightning.pytorch as pl
import pytest
import torch
from tiny import TEXT, TEXT_NET, train_text, write_corpus

import jitflow
from jitflow.apps.text.data import TextDataModule
from jitflow.apps.text.module import TextLightningModule
from jitflow.apps.text.tokenizer import ByteTokenizer
from jitflow.data.batch import ImageBatch
from jitflow.errors import CheckpointError, ConfigError, DataError, JitflowError, MissingFileError
from jitflow.io.files import load_checkpoint
from jitflow.model import Model
from jitflow.run.recipe import read_recipe
from jitflow.run.settings import complete
from jitflow.verbs.application import application

WORDS = ByteTokenizer()


def test_a_learned_tokenizer_goes_with_the_checkpoint(text, tmp_path):
    out = tmp_path / "run"
    train_text(text, out, tokenizer="bpe:300", epochs=1, save_interval=1, **TEXT)
    module = jitflow.load(out / "checkpoint_epoch_1.pth", device="cpu").module
    assert module.tokenizer.name == "bpe:300" and module.tokenizer.vocab_size > 258
    train_text(text, resume=out, tokenizer="bpe:300", epochs=2, accelerator="cpu")
    record = (out / "run.json").read_bytes()
    # Of other text another tokenizer is learned, which the checkpoint's model does not know.
    other = tmp_path / "other.txt"
    other.write_text("completely different words everywhere " * 80)
    for given in ({"tokenizer": "bpe:300"}, {}):
        with pytest.raises(JitflowError, match="another tokenizer"):
            train_text(other, resume=out, epochs=3, accelerator="cpu", **given)
        assert (out / "run.json").read_bytes() == record


@pytest.mark.parametrize("mapping", ["lattice", "base256"])
def test_the_mappings_of_one_pixel_train_and_write(text, tmp_path, mapping):
    settings = {**TEXT, "img_size": 8, "mapping": mapping, "epochs": 1}
    module = jitflow.load(train_text(text, tmp_path, **settings).best, device="cpu").module
    assert module.colours.num_tokens == 64
    samples = Model(module).sample(num=2, steps=3)
    assert samples.ids.shape == (2, 64)


def test_velocity_prediction_trains(text, tmp_path):
    run = train_text(text, tmp_path, predict_clean=False, max_steps=3, epochs=9, **TEXT)
    module = jitflow.load(run.checkpoint, device="cpu").module
    assert module.prediction == "velocity"
    assert load_checkpoint(tmp_path / "checkpoint-last.pth")["global_step"] == 3


def test_a_text_too_short_to_hold_out_is_its_own_validation(tmp_path, caplog):
    page = tmp_path / "page.txt"
    page.write_text("One short page. " * 20)
    with caplog.at_level("INFO"):
        best = train_text(page, tmp_path / "run", epochs=2, **TEXT).best
    assert best.name == "best_model.pth" and best.exists()
    assert "on the training text itself" in caplog.text
    # Longer than an image: cut into windows, which is said.
    assert "windows of 16" in caplog.text


def test_the_built_in_corpus_takes_the_place_of_the_documented_folder(tmp_path, monkeypatch, caplog):
    import jitflow.apps.text.data as data

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "builtin_documents", lambda split: [f"the {split} corpus " * 60])
    with caplog.at_level("INFO"):
        train_text("./data/train", "out", epochs=1, **TEXT)
    assert "./data/train does not exist: the built-in corpus takes its place" in caplog.text
    write_corpus(tmp_path / "data" / "train")
    caplog.clear()
    with caplog.at_level("INFO"):
        train_text("./data/train", "out2", epochs=1, max_steps=1, **TEXT)
    assert "built-in" not in caplog.text


def test_what_cannot_work_is_said_before_anything_is_written(text, tmp_path):
    out = tmp_path / "out"
    empty, odd, blank = tmp_path / "empty", tmp_path / "odd", tmp_path / "blank.txt"
    empty.mkdir()
    odd.mkdir()
    (odd / "a.pdf").write_text("x")
    blank.write_text(" \n ")
    cases = [
        (MissingFileError, "does not exist", {"data_path": tmp_path / "nowhere"}),
        (DataError, "is empty", {"data_path": empty}),
        (DataError, r"unknown types \(a.pdf\)", {"data_path": odd}),
        (DataError, "unknown type", {"data_path": odd / "a.pdf"}),
        (DataError, "unknown types", {"val_path": odd}),
        (ConfigError, "unknown model", {"model": "JiT-B/5"}),
        (ConfigError, "image size", {"img_size": 18}),
        (ConfigError, "bpe:<vocabulary size>", {"tokenizer": "bpe:many"}),
        (MissingFileError, "tokenizer_path", {"tokenizer": str(tmp_path / "tokenizer")}),
        (ConfigError, "unknown colour mapping", {"mapping": "codebok"}),
        (ConfigError, "epochs must be at least 1", {"epochs": 0}),
        (ConfigError, "max_steps must be", {"max_steps": 0}),
        (ConfigError, "warmup_epochs must be", {"warmup_epochs": -1}),
        (ConfigError, "save_interval must be", {"save_interval": 0}),
        (ConfigError, "devices must be", {"devices": 0}),
        (MissingFileError, "no checkpoint", {"resume": tmp_path / "nothing.pth"}),
        (MissingFileError, "no", {"resume": "auto"}),
    ]
    for error, message, given in cases:
        with pytest.raises(error, match=message):
            train_text(**{**TEXT, "data_path": text, "output_dir": out, **given})
        assert not out.exists(), given
    with pytest.raises(DataError, match="no text"):
        train_text(blank, out, **TEXT)


def test_a_vocabulary_too_large_for_the_mapping_says_the_limit(text, tmp_path, monkeypatch):
    import jitflow.apps.text.colour as colour

    monkeypatch.setattr(colour, "DIMENSION", 8)
    with pytest.raises(ConfigError, match="256 tokens; the vocabulary has 258"):
        train_text(text, tmp_path, **TEXT)


def test_a_checkpoint_of_something_else_is_refused(text, tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"state_dict": {}, "hyper_parameters": {"num_classes": 3}}, path)
    with pytest.raises(CheckpointError, match="settings"):
        train_text(text, tmp_path / "out", resume=path)
    recipe = complete(read_recipe("images/digits"))
    torch.save({"state_dict": {}, "hyper_parameters": {"num_classes": 3}, "recipe": recipe}, path)
    with pytest.raises(CheckpointError, match="no model of text but of images"):
        train_text(text, tmp_path / "out", resume=path)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(shutil.which("wandb") is not None, reason="wandb is installed")
def test_wandb_has_to_be_there(text, tmp_path):
    with pytest.raises(ConfigError, match="pip install wandb"):
        application("text", ["train", "--data_path", str(text), "--output_dir", str(tmp_path), "--use_wandb"])


@pytest.mark.parametrize("recipe", ["text/jit_n4_bytes", "text/jit_b4_bytes"])
def test_a_recipe_trains_and_its_checkpoint_writes(text, tmp_path, recipe):
    from jitflow import cli

    words = ["train", "--config", recipe, "--run_dir", str(tmp_path / "run"), "--data.data_path", str(text)]
    words += ["--data.img_size", "16", "--model.img_size", "16", "--data.batch_size", "32", "--trainer.max_epochs", "1"]
    words += [
        "--model.model_name",
        "JiT-N/4",
        "--model.net_settings",
        json.dumps(TEXT_NET),
        "--trainer.precision",
        "32-true",
    ]
    words += ["--trainer.limit_train_batches", "2", "--schedule.warmup_epochs", "0.5", "--trainer.accelerator", "cpu"]
    assert cli.main(words) == 0
    best = tmp_path / "run" / "checkpoints" / "best_model.pth"
    assert len(jitflow.load(best, device="cpu").sample(num=1, steps=2)) == 1


def test_a_recipe_for_images_of_another_size_is_refused(text):
    data = TextDataModule(text, mapping="lattice", img_size=8)
    module = TextLightningModule("bytes", "JiT-N/4", 16, net_settings=TEXT_NET)
    assert data.num_tokens == 64
    with pytest.raises(ConfigError, match="num_tokens=16"):
        module.check_data(data.get_dataset_info())


def test_what_the_training_sees_is_text(text, tmp_path):
    """Batches are windows of the corpus, and what is read from their colours is the corpus."""
    seen: list[str] = []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            assert isinstance(batch, ImageBatch)
            x = pl_module.codec.encode(batch.images)
            seen.extend(WORDS.decode(ids) for ids in pl_module.colours.tokens(x).tolist())

    train_text(text, tmp_path, epochs=1, callbacks=[Look()], **TEXT)
    assert any("Document" in piece for piece in seen) and any("word7 word" in piece for piece in seen)
