"""Resuming equals never having stopped: losses, weights, both averages, optimiser, bit for bit on one CPU device.

Every application is trained by both ways that lead to it: a recipe, and what its documents show, which is a plain
``pl.Trainer`` with ``create_default_callbacks`` for images and a command with documented words for the others.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from interruption import At, Interruption, power_cut, send
from tiny import TEXT, TEXT_NET, assert_same_training, train_text, write_corpus, write_latents

from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks import JiTModelCheckpoint, create_default_callbacks
from jitflow.callbacks.history import TrainingHistory
from jitflow.checkpoint.find import resume_point
from jitflow.checkpoint.folder import LAST_NAME
from jitflow.data.digits import DigitsDataModule
from jitflow.io.files import load_checkpoint
from jitflow.run.fit import fit
from jitflow.run.folder import read_run_record
from jitflow.run.recipe import override, read_recipe
from jitflow.verbs.documented import train_documented

NET = {"depth": 2, "hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8}
DIT_NET = {"depth": 1, "hidden_size": 32, "num_heads": 2}
SAVE_EVERY_STEPS = 2
# Of four and of five batches an epoch; the second ends inside its third epoch.
BY_EPOCHS = {"max_epochs": 2, "limit_train_batches": 4}
BY_STEPS = {"max_epochs": 100, "max_steps": 7, "limit_train_batches": 5, "accumulate_grad_batches": 2}
COMMON = {"limit_val_batches": 1, "check_val_every_n_epoch": 1, "accelerator": "cpu", "log_every_n_steps": 1}
SAVING = {
    "checkpoint.save_last_freq": 1,
    "checkpoint.save_last_every_n_steps": SAVE_EVERY_STEPS,
    "logging.tensorboard": None,
}


class Inputs:
    """Text and latents to train on."""

    def __init__(self, folder: Path) -> None:
        self.text = write_corpus(folder / "text")
        self.latents = write_latents(folder / "latents")


def by_recipe(name: str, settings: Callable[[Inputs], dict[str, Any]]) -> Callable[..., None]:
    """Make a function that trains by a recipe."""

    def train(folder: Path, inputs: Inputs, length: dict[str, Any], workers: int, callbacks: list[Any]) -> None:
        trainer = {f"trainer.{key}": value for key, value in {**COMMON, **length}.items()}
        common = {"data.num_workers": workers, "schedule.warmup_epochs": 1}
        fit(
            override(read_recipe(name), {**trainer, **SAVING, **common, **settings(inputs)}),
            folder,
            callbacks=callbacks,
        )

    return train


def documented_images(folder: Path, inputs: Inputs, length: dict[str, Any], workers: int, callbacks: list[Any]) -> None:
    """Train as the image documents show."""
    pl.seed_everything(7, verbose=False)
    # Dropout on, so that its random state matters too.
    module = JiTLightningModule("JiT-N/4", 16, 10, 0.1, 0.1, 1e-3, in_channels=1, net_settings=NET)
    default = create_default_callbacks(
        save_dir=folder, save_last_freq=1, lr_schedule="cosine", warmup_epochs=1, epochs=2, enable_fid_eval=False
    )
    (saving,) = (callback for callback in default if isinstance(callback, JiTModelCheckpoint))
    saving.save_last_every_n_steps = SAVE_EVERY_STEPS
    trainer = pl.Trainer(
        **COMMON,
        **length,
        callbacks=[*default, *callbacks],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = DigitsDataModule(batch_size=16, num_workers=workers)
    trainer.fit(module, datamodule=data, ckpt_path=resume_point(folder))


def documented_text(folder: Path, inputs: Inputs, length: dict[str, Any], workers: int, callbacks: list[Any]) -> None:
    """Train as ``jitflow text train`` does."""
    settings = {f"trainer.{key}": value for key, value in {**COMMON, **length}.items()}
    train_text(inputs.text, folder, num_workers=workers, settings={**settings, **SAVING}, callbacks=callbacks, **TEXT)


def documented_microdoppler(
    folder: Path, inputs: Inputs, length: dict[str, Any], workers: int, callbacks: list[Any]
) -> None:
    """Train as stage 2 does."""
    words = {"latent_dir": inputs.latents, "batch_size": 4, "num_workers": workers, "model": "LightningDiT-N/4"}
    settings = {f"trainer.{key}": value for key, value in {**COMMON, **length}.items()}
    train_documented(
        "microdoppler",
        {**words, "net_settings": DIT_NET},
        folder,
        settings={**settings, **SAVING},
        callbacks=callbacks,
    )


TRAININGS = {
    "images, documented": documented_images,
    "images, recipe": by_recipe(
        "images/digits",
        lambda inputs: {
            "model.net_settings": NET,
            "model.attn_dropout": 0.1,
            "model.proj_dropout": 0.1,
            "data.batch_size": 16,
        },
    ),
    "text, documented": documented_text,
    "text, recipe": by_recipe(
        "text/jit_n4_bytes",
        lambda inputs: {
            "data.data_path": str(inputs.text),
            "data.img_size": 16,
            "model.img_size": 16,
            "model.net_settings": TEXT_NET,
        },
    ),
    "microdoppler, documented": documented_microdoppler,
    "microdoppler, recipe": by_recipe(
        "microdoppler/n4_5users",
        lambda inputs: {
            "data.latent_dir": str(inputs.latents),
            "data.batch_size": 4,
            "model.num_users": None,
            "model.latent_shape": None,
            "model.net_settings": DIT_NET,
        },
    ),
}


class Runner:
    """Trains by one of the ways."""

    def __init__(self, name: str, inputs: Inputs) -> None:
        self.name, self.inputs = name, inputs

    def __call__(self, folder: Path, length: dict[str, Any], *callbacks: pl.Callback, workers: int = 0) -> Path:
        """Train, or go on in a folder; return where the last checkpoint is."""
        TRAININGS[self.name](folder, self.inputs, length, workers, [TrainingHistory(), *callbacks])
        return self.last(folder)

    def last(self, folder: Path) -> Path:
        """Where the last checkpoint of a folder is."""
        found = resume_point(folder)
        assert found is not None and found.name == LAST_NAME
        return found

    @property
    def is_fit(self) -> bool:
        """Whether the run keeps a ``run.json``."""
        return self.name != "images, documented"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module", params=list(TRAININGS))
def train(request, inputs) -> Runner:
    return Runner(request.param, inputs)


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory) -> Path:
    """The last checkpoint of a training that nothing interrupted."""
    last = train(tmp_path_factory.mktemp("whole"), BY_EPOCHS)
    content = load_checkpoint(last)
    assert content["global_step"] == len(content["callbacks"]["TrainingHistory"]["losses"]) == 8
    return last


@pytest.mark.parametrize(
    ("step", "resumed_from", "workers"),
    [(3, 2, 0), (4, 4, 0), (7, 6, 2)],
    ids=["in the first epoch", "between epochs", "in the second epoch, with workers"],
)
def test_after_a_power_cut_a_run_ends_like_one_that_had_none(train, whole, tmp_path, step, resumed_from, workers):
    with pytest.raises(Interruption):
        train(tmp_path, BY_EPOCHS, At(step, power_cut), workers=workers)
    assert load_checkpoint(train.last(tmp_path))["global_step"] == resumed_from
    assert_same_training(train(tmp_path, BY_EPOCHS, workers=workers), whole)


@pytest.mark.parametrize("length", [BY_EPOCHS, BY_STEPS], ids=["by epochs", "by steps, with accumulation"])
def test_a_run_that_is_stopped_again_and_again_ends_like_one_that_never_was(
    train, whole, tmp_path, tmp_path_factory, length
):
    if length is BY_STEPS:
        whole = train(tmp_path_factory.mktemp("whole"), BY_STEPS)
        assert load_checkpoint(whole)["global_step"] == 7
    # In a step, in the last step of an epoch, in the validation after it.
    end = 4 if length is BY_EPOCHS else 3
    stops = [
        (At(1, send(signal.SIGINT)), 2),
        (At(end - 1, send(signal.SIGTERM)), end),
        (At(2 * end, send(signal.SIGTERM), validation=True), 2 * end),
    ]
    for stop, saved in stops:
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(tmp_path, length, stop)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
        assert load_checkpoint(train.last(tmp_path))["global_step"] == saved
        assert not train.is_fit or read_run_record(tmp_path).state == "interrupted"
    assert_same_training(train(tmp_path, length), whole)
    assert not train.is_fit or read_run_record(tmp_path).state == "finished"
