"""Each workaround of lightning_counters.py: with it a resumed run is right, without it Lightning gets it wrong."""

import warnings
from collections import Counter

import lightning.pytorch as pl
import pytest
import torch
from interruption import Interruption, RandomImages, SaveAndStop, make_trainer
from lightning.pytorch.loggers.logger import DummyLogger
from torch.utils.data import DataLoader

from jitflow.data import base
from jitflow.data.base import ImageDataModule, LoaderSettings, SeededLoader
from jitflow.training import lightning_counters
from jitflow.training.lightning_counters import ExactResume, last_begun_epoch, last_finished_epoch

NUM_BATCHES = 6


class Data(ImageDataModule):
    def __init__(self):
        super().__init__(2, 4, LoaderSettings(seed=5))

    def setup(self, stage=None):
        self.dataset_train, self.dataset_val = RandomImages(4 * NUM_BATCHES), RandomImages(5)


class Module(ExactResume):
    def __init__(self, *, ask_for_steps=False):
        super().__init__()
        self.layer, self.ask_for_steps, self.seen = torch.nn.Linear(4, 1), ask_for_steps, ()

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch[0].flatten(1).float()).mean() * 1e-6
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        if self.ask_for_steps:
            assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), 0.1)


class Marks(pl.Callback):
    """When epochs begin and end and validations end, as (what, Lightning's epoch, steps done)."""

    def __init__(self):
        self.all = []

    def mark(self, what, trainer):
        if not trainer.sanity_checking:
            self.all.append((what, trainer.current_epoch, trainer.global_step))

    def on_train_epoch_start(self, trainer, module):
        self.mark("start", trainer)

    def on_train_epoch_end(self, trainer, module):
        self.mark("end", trainer)

    def on_validation_end(self, trainer, module):
        self.mark("validation", trainer)


class Steps(DummyLogger):
    """The steps that a logger is given."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def log_metrics(self, metrics, step=None):
        if "loss" in metrics:
            self.steps.append(step)


@pytest.fixture(autouse=True)
def few_workers_suffice():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        yield


def save_at(hook, count, path, **limits):
    """Train until the n-th call of a hook, which saves and ends it; return the marks until then."""
    marks = Marks()
    trainer = make_trainer(marks, SaveAndStop(hook, count, path), **limits)
    with pytest.raises(Interruption):
        trainer.fit(Module(), datamodule=Data())
    trainer.fit_loop.teardown()
    return marks.all


def go_on(path, *, ask_for_steps=False, **limits):
    """Train to the end; return the marks, and the steps of the logger."""
    marks, logger = Marks(), Steps()
    trainer = make_trainer(marks, logger=logger, log_every_n_steps=1, **limits)
    weights_only = None if path is None else True
    trainer.fit(Module(ask_for_steps=ask_for_steps), datamodule=Data(), ckpt_path=path, weights_only=weights_only)
    return marks.all, logger.steps


def leave_counters_as_saved(monkeypatch):
    """Lightning reads its counters as they were saved; the data are told the right position all the same."""
    correct = lightning_counters.corrected_counters
    monkeypatch.setattr(
        lightning_counters, "corrected_counters", lambda saved, **how: (saved, correct(saved, **how)[1])
    )


EPOCHS, STEPS = {"max_epochs": 2}, {"max_steps": 12, "max_epochs": -1}
END_OF_EPOCH = {("validation", 0, 6), ("end", 0, 6), ("start", 1, 6)}
# What is left out, and what is done twice, where Lightning reads the counters as they were saved.
WRONG = {
    "an epoch that was over": (STEPS, "on_train_epoch_end", 1, set(), {("end", 0, 6)}),
    "the last batch of an epoch, by epochs": (EPOCHS, "on_train_batch_end", NUM_BATCHES, END_OF_EPOCH, set()),
    "the last batch of an epoch, by steps": (STEPS, "on_train_batch_end", NUM_BATCHES, END_OF_EPOCH, set()),
    "a validation": ({**STEPS, "val_check_interval": 2}, "on_train_batch_end", 2, {("validation", 0, 2)}, set()),
}


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize(("limits", "hook", "count", "missing", "extra"), WRONG.values(), ids=WRONG)
def test_without_the_correction_epochs_and_validations_go_wrong(
    tmp_path, monkeypatch, limits, hook, count, missing, extra, corrected
):
    whole = Counter(go_on(None, **limits)[0])
    first = save_at(hook, count, tmp_path / "x.ckpt", **limits)
    if not corrected:
        leave_counters_as_saved(monkeypatch)
    marks = Counter(first + go_on(tmp_path / "x.ckpt", **limits)[0])
    assert (set(whole - marks), set(marks - whole)) == ((set(), set()) if corrected else (missing, extra))


@pytest.mark.parametrize("corrected", [True, False])
def test_without_the_correction_an_epoch_that_max_steps_cut_is_counted_as_over(tmp_path, monkeypatch, corrected):
    first = make_trainer(max_steps=4)
    first.fit(Module(), datamodule=Data())
    first.save_checkpoint(tmp_path / "x.ckpt")
    if not corrected:
        leave_counters_as_saved(monkeypatch)
    marks, _ = go_on(tmp_path / "x.ckpt", max_steps=12)
    ends = [mark for mark in marks if mark[0] == "end"]
    assert ends == ([("end", 0, 6), ("end", 1, 12)] if corrected else [("end", 1, 6), ("end", 2, 12)])


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize(("hook", "done", "off"), [("on_train_batch_end", 3, -1), ("on_train_batch_start", 2, 1)])
@pytest.mark.parametrize("limits", [EPOCHS, STEPS], ids=["epochs", "steps"])
def test_without_it_the_loggers_step_is_off(tmp_path, monkeypatch, limits, hook, done, off, corrected):
    _, whole = go_on(None, **limits)
    assert whole == list(range(12))
    save_at(hook, 3, tmp_path / "x.ckpt", **limits)
    if not corrected:
        monkeypatch.setattr(lightning_counters, "correct_logger_step", lambda trainer: None)
    _, steps = go_on(tmp_path / "x.ckpt", **limits)
    assert steps == [step + (0 if corrected else off) for step in whole[done:]]


def test_the_epoch_of_a_checkpoint(tmp_path):
    class Epochs(pl.Callback):
        def __init__(self):
            self.found = {}

        def note(self, hook, trainer):
            self.found[hook] = (trainer.current_epoch, last_begun_epoch(trainer), last_finished_epoch(trainer))

        def on_train_start(self, trainer, module):
            self.note("start", trainer)

        def on_train_batch_end(self, trainer, *args):
            self.note("batch", trainer)

        def on_train_epoch_end(self, trainer, module):
            self.note("epoch", trainer)

        def on_train_end(self, trainer, module):
            self.note("end", trainer)

    epochs = Epochs()
    make_trainer(epochs, max_epochs=2).fit(Module(), datamodule=Data())
    # Lightning's own tells two numbers for the end of the same epoch, and the same for different states.
    assert epochs.found == {"start": (0, 0, -1), "batch": (1, 1, 0), "epoch": (1, 1, 1), "end": (2, 1, 1)}


@pytest.mark.parametrize("loader", [SeededLoader, DataLoader])
def test_a_loader_without_state_is_warned_of(tmp_path, monkeypatch, recwarn, loader):
    monkeypatch.setattr(base, "SeededLoader", loader)
    save_at("on_train_batch_end", 3, tmp_path / "x.ckpt", **EPOCHS)
    go_on(tmp_path / "x.ckpt", **EPOCHS)
    assert any("not resumable" in str(w.message) for w in recwarn) == (loader is DataLoader)


@pytest.mark.parametrize("ask_for_steps", [False, True])
def test_lightning_forgets_the_state_of_a_loader_once_the_number_of_steps_was_asked_for(
    tmp_path, monkeypatch, ask_for_steps
):
    restored = []
    monkeypatch.setattr(SeededLoader, "state_dict", lambda self: {"position": 3})
    monkeypatch.setattr(SeededLoader, "load_state_dict", lambda self, state: restored.append(state))
    save_at("on_train_batch_end", 3, tmp_path / "x.ckpt", **EPOCHS)
    go_on(tmp_path / "x.ckpt", ask_for_steps=ask_for_steps, **EPOCHS)
    assert restored == ([] if ask_for_steps else [{"position": 3}])
