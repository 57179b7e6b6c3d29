"""Pictures of a training: the same seeds at intervals, on the same losses; in its folder, TensorBoard and report."""

from __future__ import annotations

import json
import logging
import re

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from interruption import At, Interruption, make_trainer, power_cut
from PIL import Image
from tiny import TEXT, assert_same_training, train_text, write_corpus, write_latents

import jitflow
from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks import EMACallback
from jitflow.callbacks.history import TrainingHistory
from jitflow.callbacks.training_pictures import TrainingPictures
from jitflow.data.digits import DigitsDataModule
from jitflow.run.fit import fit
from jitflow.run.recipe import override, read_recipe
from jitflow.run.report import write_report

NET = {"depth": 2, "hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8}
# Two evaluations of four samples, guided, cost two thirds of a step of 16 images: every fourth step for a fifth.
SETTINGS = {
    "model.net_settings": NET,
    "model.proj_dropout": 0.1,
    "model.num_sampling_steps": 2,
    "data.batch_size": 16,
    "data.num_workers": 0,
    "trainer.max_epochs": 2,
    "trainer.limit_train_batches": 4,
    "trainer.accelerator": "cpu",
    "schedule.warmup_epochs": 0,
    "checkpoint.save_last_every_n_steps": 2,
    "pictures.share": 0.2,
    "pictures.num": 4,
}
NAMES = ["step0000004.json", "step0000004.png", "step0000008.json", "step0000008.png"]
pytestmark = pytest.mark.usefixtures("no_reports")


def train(folder, *callbacks, **changed):
    recipe = override(read_recipe("images/digits"), {**SETTINGS, **changed})
    return fit(recipe, folder, callbacks=[TrainingHistory(), *callbacks])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "with")


def pictures_in(folder):
    return {path.name: path.read_bytes() for path in (folder / "training_pictures").iterdir()}


def test_the_losses_are_those_of_a_training_without_pictures(run, tmp_path):
    without = train(tmp_path / "without", **{"pictures.share": 0})
    assert not (without.folder / "training_pictures").exists()
    assert sorted(pictures_in(run.folder)) == NAMES
    assert_same_training(run.checkpoint, without.checkpoint)


def test_the_last_picture_is_what_sampling_gives(run, tmp_path):
    record = json.loads((run.folder / "training_pictures" / NAMES[2]).read_text())
    drawn = jitflow.load(run.checkpoint, device="cpu").sample("0-3")
    drawn.grid(columns=4).save(tmp_path / "grid.png")
    with Image.open(run.folder / "training_pictures" / NAMES[3]) as image, Image.open(tmp_path / "grid.png") as grid:
        assert np.array_equal(np.asarray(image), np.asarray(grid))
    assert (record["step"], record["seeds"], record["settings"]["ema"]) == (8, [0, 1, 2, 3], 1)
    assert record["captions"] == ["class 0", "class 1", "class 2", "class 3"]


def test_a_resumed_training_draws_the_same(run, tmp_path):
    with pytest.raises(Interruption):
        train(tmp_path / "run", At(7, power_cut))
    assert sorted(pictures_in(tmp_path / "run")) == NAMES[:2]
    resumed = train(tmp_path / "run")
    assert pictures_in(tmp_path / "run") == pictures_in(run.folder)
    assert_same_training(resumed.checkpoint, run.checkpoint)


def test_they_are_in_tensorboard_and_behind_a_slider_of_the_report(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.folder / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert [image.step for image in events.Images("pictures")] == [4, 8]
    page = write_report(run.folder).read_text()
    inputs = re.findall(r'<input type="radio" name="steps" id="steps\d"[^>]*>', page)
    assert [" checked" in given for given in inputs] == [False, True]
    assert "after 4 steps" in page and "after 8 steps" in page and "<script" not in page
    # Losses and pictures first, everything else folded away or below.
    order = [page.index(said) for said in ("Training loss", "after 4 steps", "<h2>Settings")]
    assert order == sorted(order)


def test_texts_are_shown_as_text(tmp_path):
    settings = {"pictures.share": 0.5, "pictures.num": 2, "model.num_sampling_steps": 2, "trainer.max_steps": 2}
    run = train_text(write_corpus(tmp_path / "text"), tmp_path / "run", settings=settings, **TEXT)
    (*_, last) = sorted((run.folder / "training_pictures").glob("*.json"))
    texts = json.loads(last.read_text())["texts"]
    drawn = jitflow.load(run.checkpoint, device="cpu").sample(num=2, steps=2)
    assert texts == drawn.texts and len(texts) == 2
    assert "--- seed 1" in write_report(run.folder).read_text()


def test_what_cannot_be_drawn_is_said_and_trains(tmp_path, caplog):
    latents = write_latents(tmp_path / "latents")
    settings = {
        "data.latent_dir": str(latents),
        "data.batch_size": 4,
        "model.num_users": None,
        "model.latent_shape": None,
        "model.net_settings": {"depth": 1, "hidden_size": 32, "num_heads": 2},
        "trainer.max_steps": 2,
        "trainer.accelerator": "cpu",
        "pictures.share": 0.5,
    }
    with caplog.at_level(logging.INFO, logger="jitflow"):
        # Latents of an autoencoder whose file is not there.
        run = fit(override(read_recipe("microdoppler/n4_5users"), settings), tmp_path / "run")
    assert run.state == "finished" and not (run.folder / "training_pictures").exists()
    assert [line for line in caplog.messages if line.startswith("no pictures of the training") and "codec" in line]


@pytest.mark.parametrize("error", [RuntimeError("no picture"), torch.OutOfMemoryError("full")])
def test_a_failing_picture_never_ends_a_training(tmp_path, caplog, error):
    class Failing(JiTLightningModule):
        def generate(self, labels, use_ema=True):
            raise error

    module = Failing("JiT-N/4", 16, 10, in_channels=1, net_settings=NET, num_sampling_steps=2)
    drawing = TrainingPictures(tmp_path, share=0.5, num=1)
    trainer = make_trainer(EMACallback(), drawing, max_steps=4, limit_val_batches=0)
    trainer.fit(module, datamodule=DigitsDataModule(batch_size=16, num_workers=0))
    assert trainer.global_step == 4 and not any(tmp_path.iterdir())
    # Once, not at every second step.
    assert [line for line in caplog.messages if line.startswith("no picture at")] == [
        f"no picture at step 2: {type(error).__name__}: {error}"
    ]


def test_a_short_training_has_none_and_says_so(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="jitflow"):
        run = train(tmp_path / "run", pl.Callback(), **{"trainer.max_epochs": 1, "trainer.limit_train_batches": 3})
    assert "shorter than their interval, 4 steps" in caplog.text
    assert not (run.folder / "training_pictures").exists()
