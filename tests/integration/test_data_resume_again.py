"""A run that is interrupted again and again, by epochs and by steps: its data, epochs and validations stay true."""

import warnings

import lightning.pytorch as pl
import pytest
import torch
from interruption import Interruption, RandomImages, SaveAndStop
from interruption import make_trainer as plain_trainer

from jitflow.data.base import ImageDataModule, LoaderSettings
from jitflow.training.lightning_counters import ExactResume

NUM_BATCHES = 6


class Data(ImageDataModule):
    def __init__(self, batch_size=4, **options):
        super().__init__(2, batch_size, LoaderSettings(seed=5, **options))

    def setup(self, stage=None):
        self.dataset_train, self.dataset_val = RandomImages(26), RandomImages(5)


def make_trainer(*callbacks, **options):
    return plain_trainer(Marks(), *callbacks, **options)


class Recorder(ExactResume):
    """The samples of every step, and when epochs and validations happen, as (what, Lightning's epoch, steps done)."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.seen = []
        self.marks = []

    def training_step(self, batch, batch_idx):
        self.seen.append((batch.epoch, batch_idx, batch.index.tolist(), int(batch.images.sum())))
        assert batch.epoch == self.current_epoch
        # The step that loggers are given.
        assert self.trainer.fit_loop.epoch_loop._batches_that_stepped == self.trainer.global_step
        return self.layer(batch[0].flatten(1).float()).mean() * 1e-6

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Marks(pl.Callback):
    def on_train_epoch_start(self, trainer, module):
        module.marks.append(("start", trainer.current_epoch, trainer.global_step))

    def on_train_epoch_end(self, trainer, module):
        module.marks.append(("end", trainer.current_epoch, trainer.global_step))

    def on_validation_start(self, trainer, module):
        if not trainer.sanity_checking:
            module.marks.append(("validation", trainer.current_epoch, trainer.global_step))


def run(limits, pieces, folder, **options):
    """Train in pieces, each ended by the n-th call of a hook; the last one to the end.

    Returns:
        The samples seen, without those after the save, and all marks.
    """
    seen, marks, path = [], [], None
    for number, (hook, count) in enumerate(pieces):
        recorder, data, target = Recorder(), Data(**options), folder / f"{number}.ckpt"
        stop = SaveAndStop(hook, count, target)
        trainer = make_trainer(stop, **limits)
        with pytest.raises(Interruption):
            trainer.fit(recorder, datamodule=data, ckpt_path=path, weights_only=path is not None or None)
        trainer.fit_loop.teardown()
        seen += recorder.seen[: stop.num_seen]
        marks += recorder.marks
        path = target
    recorder = Recorder()
    trainer = make_trainer(**limits)
    trainer.fit(recorder, datamodule=Data(**options), ckpt_path=path, weights_only=path is not None or None)
    assert trainer.fit_loop.epoch_progress.current.started == trainer.fit_loop.epoch_progress.current.processed
    return seen + recorder.seen, marks + recorder.marks


@pytest.fixture(autouse=True)
def few_workers_suffice():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        yield


INSIDE, LAST, BEFORE = ("on_train_batch_end", 3), ("on_train_batch_end", NUM_BATCHES), ("on_train_batch_start", 2)
END, VALIDATED, START = ("on_train_epoch_end", 1), ("on_validation_end", 1), ("on_train_epoch_start", 2)
PIECES = {
    "inside, then inside": [INSIDE, INSIDE],
    "end, then inside": [END, INSIDE, INSIDE],
    "end, then end": [END, END],
    "last batch, then inside": [LAST, INSIDE, INSIDE],
    "last batch, then last batch": [LAST, ("on_train_batch_end", NUM_BATCHES), INSIDE],
    "validated, then inside": [VALIDATED, INSIDE],
    "validated, then end": [VALIDATED, END, BEFORE],
    "before a step, then end": [BEFORE, END, INSIDE],
    "start of an epoch, then inside": [START, INSIDE, INSIDE],
    "inside, then the end of that epoch": [INSIDE, END, INSIDE, END],
    "start of the training": [("on_train_start", 1), INSIDE],
}
LIMITS = {
    "epochs": {"max_epochs": 4},
    "steps": {"max_steps": 21, "max_epochs": -1},
    "steps, accumulated": {"max_steps": 7, "max_epochs": -1, "accumulate_grad_batches": 3},
    "epochs, no validation": {"max_epochs": 4, "limit_val_batches": 0},
    "steps, validation every 2": {"max_steps": 21, "max_epochs": -1, "val_check_interval": 2},
    "steps, validation every second epoch": {"max_steps": 21, "max_epochs": -1, "check_val_every_n_epoch": 2},
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
def test_interrupted_again_and_again(tmp_path, limits, pieces):
    if limits.get("limit_val_batches") == 0 or "check_val_every_n_epoch" in limits:
        pieces = [piece for piece in pieces if piece != VALIDATED]
    seen, marks = run(limits, pieces, tmp_path)
    expected_seen, expected_marks = run(limits, [], tmp_path)
    assert seen == expected_seen
    # What a piece does after its last save is done again, but nothing is left out or gets another number.
    assert sorted(set(marks)) == sorted(set(expected_marks))


@pytest.mark.parametrize("stops", [(4, 9, 12, 15, 21), (6, 12, 13, 21), (1, 2, 3, 21)])
def test_longer_and_longer_by_steps(tmp_path, stops):
    # An epoch that max_steps cuts is closed by Lightning, and goes on all the same, under the same number.
    seen, ends, path = [], [], None
    for stop in stops:
        recorder, trainer = Recorder(), make_trainer(max_steps=stop)
        trainer.fit(recorder, datamodule=Data(), ckpt_path=path, weights_only=path is not None or None)
        seen += recorder.seen
        ends += [mark for mark in recorder.marks if mark[0] == "end"]
        path = tmp_path / f"{stop}.ckpt"
        trainer.save_checkpoint(path)
    expected, _ = run({"max_steps": 21}, [], tmp_path)
    assert seen == expected
    assert all(epoch == (step - 1) // NUM_BATCHES for _, epoch, step in ends)


def test_by_steps_then_by_epochs(tmp_path):
    seen, path = [], None
    for limits in ({"max_steps": 9}, {"max_epochs": 2}, {"max_steps": 14}, {"max_epochs": 3}):
        recorder, trainer = Recorder(), make_trainer(**limits)
        trainer.fit(recorder, datamodule=Data(), ckpt_path=path, weights_only=path is not None or None)
        seen += recorder.seen
        path = tmp_path / "x.ckpt"
        trainer.save_checkpoint(path)
    assert seen == run({"max_epochs": 3}, [], tmp_path)[0]


def test_other_batches_after_an_epoch_by_steps(tmp_path):
    trainer = make_trainer(max_steps=NUM_BATCHES)
    trainer.fit(Recorder(), datamodule=Data())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    recorder = Recorder()
    make_trainer(max_steps=NUM_BATCHES + 13).fit(
        recorder, datamodule=Data(batch_size=2), ckpt_path=tmp_path / "x.ckpt", weights_only=True
    )
    assert [(epoch, batch) for epoch, batch, *_ in recorder.seen] == [(1, batch) for batch in range(13)]


@pytest.mark.parametrize("limits", [{"max_epochs": 3}, {"max_steps": 18, "max_epochs": -1}], ids=["epochs", "steps"])
def test_one_trainer_that_resumes_twice(tmp_path, limits):
    first = make_trainer(max_epochs=1)
    first.fit(Recorder(), datamodule=Data())
    first.save_checkpoint(tmp_path / "x.ckpt")
    trainer, seen = make_trainer(**limits), []
    for _ in range(2):
        recorder = Recorder()
        trainer.fit(recorder, datamodule=Data(), ckpt_path=tmp_path / "x.ckpt", weights_only=True)
        seen.append(recorder.seen)
    expected, _ = run({"max_epochs": 3}, [], tmp_path)
    assert seen[0] == expected[NUM_BATCHES:]
    assert seen[1] == expected[NUM_BATCHES:]
