"""Lightning's counters, corrected before it reads them."""

import copy
from types import SimpleNamespace

import pytest

from jitflow.data.base import ImageDataModule
from jitflow.data.position import DataPosition
from jitflow.errors import CheckpointError
from jitflow.training.lightning_counters import corrected_counters, resume_exactly


def tracker(ready, started, processed, completed):
    return {"ready": ready, "started": started, "processed": processed, "completed": completed}


def counters(epochs, batches, *, last=False, total=100, validation=(5, 5, 5, 5)):
    behind = batches[2] - batches[3]
    return {
        "state_dict": {},
        "epoch_progress": {"total": tracker(*epochs), "current": tracker(*epochs)},
        "epoch_loop.batch_progress": {
            "total": tracker(total, total, total, total - behind),
            "current": tracker(*batches),
            "is_last_batch": last,
        },
        "epoch_loop.val_loop.batch_progress": {
            "total": tracker(*validation),
            "current": tracker(*validation),
            "is_last_batch": True,
        },
    }


# Saved in which hook, the counters there, and what is done: epochs, and batches of the next one. Epochs of 6 batches.
CASES = {
    "on_train_batch_end": (counters((3, 3, 2, 2), (4, 4, 4, 3)), 2, 4),
    "on_train_batch_start": (counters((3, 3, 2, 2), (5, 4, 4, 4)), 2, 4),
    "on_train_batch_end of the last batch": (counters((3, 3, 2, 2), (6, 6, 6, 5), last=True), 2, 6),
    "on_validation_end of an epoch": (counters((3, 3, 2, 2), (6, 6, 6, 6), last=True), 2, 6),
    "on_train_epoch_end": (counters((3, 3, 3, 2), (6, 6, 6, 6), last=True), 3, 0),
    "on_train_end": (counters((3, 3, 3, 3), (6, 6, 6, 6), last=True), 3, 0),
    "on_train_epoch_start": (counters((4, 3, 3, 3), (6, 6, 6, 6), last=True), 3, 0),
    "on_train_start": (counters((0, 0, 0, 0), (0, 0, 0, 0), total=0, validation=(0, 0, 0, 0)), 0, 0),
    "on_train_epoch_end of an epoch cut by max_steps": (counters((3, 3, 3, 2), (4, 4, 4, 4)), 2, 4),
    "on_train_end after such an epoch": (counters((3, 3, 3, 3), (4, 4, 4, 4)), 2, 4),
    "inside an epoch that Lightning never opened": (counters((2, 2, 2, 2), (4, 4, 4, 3)), 2, 4),
}


@pytest.mark.parametrize("by_steps", [True, False])
@pytest.mark.parametrize(("saved", "epochs", "batches"), CASES.values(), ids=CASES)
def test_where_the_training_stands(saved, epochs, batches, by_steps):
    before = copy.deepcopy(saved)
    state, position = corrected_counters(saved, by_steps=by_steps)
    assert saved == before
    assert position == DataPosition(epochs, batches)
    inside = batches > 0
    for scope in ("total", "current"):
        assert state["epoch_progress"][scope] == tracker(epochs + inside, epochs + inside, epochs, epochs)
    if inside:
        assert state["epoch_loop.batch_progress"]["current"]["processed"] == batches


@pytest.mark.parametrize("validation", [(5, 5, 5, 5), (3, 3, 3, 2), (0, 0, 0, 0)])
def test_a_validation_that_is_due_or_was_broken_off_is_begun_anew(validation):
    # In on_train_batch_end no validation after this batch has begun, whatever an earlier one left behind.
    saved = counters((3, 3, 2, 2), (6, 6, 6, 5), last=True, validation=validation)
    begun = corrected_counters(saved, by_steps=True)[0]["epoch_loop.val_loop.batch_progress"]
    assert begun["total"] == begun["current"] == tracker(1, 1, 0, 0)
    # In the hooks of a validation it depends on whether it is over.
    saved = counters((3, 3, 2, 2), (6, 6, 6, 6), last=True, validation=validation)
    begun = corrected_counters(saved, by_steps=True)[0]["epoch_loop.val_loop.batch_progress"]
    is_over = validation == (5, 5, 5, 5)
    assert begun["current"] == (tracker(5, 5, 5, 5) if is_over else tracker(1, 1, 0, 0))


def test_an_epoch_begins_anew_by_steps_whatever_its_length():
    saved = counters((3, 3, 3, 3), (6, 6, 6, 6), last=True)
    progress = corrected_counters(saved, by_steps=True, accumulated=3)[0]["epoch_loop.batch_progress"]
    current = progress["current"]
    assert current["completed"] == current["processed"] - 1 >= 10**9 and current["ready"] % 3 == 0
    assert progress["total"] == tracker(100, 100, 100, 99)
    assert not progress["is_last_batch"]


@pytest.mark.parametrize("damage", [{}, {"epoch_progress": 3}, {"epoch_loop.batch_progress": {"current": None}}])
def test_counters_that_are_none_are_one_error(damage):
    saved = {**counters((3, 3, 3, 3), (6, 6, 6, 6)), **damage} if damage else {}
    data = ImageDataModule(2, 4)
    data.resume_at = lambda position: pytest.fail("went on")
    trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"), datamodule=data, max_steps=-1, accumulate_grad_batches=1)
    with pytest.raises(CheckpointError, match="does not record the position"):
        resume_exactly(trainer, {"loops": {"fit_loop": saved}})
