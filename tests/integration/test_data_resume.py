"""An interrupted and resumed run sees exactly the batches of an uninterrupted one."""

import functools
import json
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from forked_python import forked_python
from interruption import Interruption, RandomImages, SaveAndStop, make_trainer

from jitflow.data.base import ImageDataModule, LoaderSettings
from jitflow.errors import ConfigError, DataError
from jitflow.training.lightning_counters import ExactResume, resume_exactly

ROOT = Path(__file__).resolve().parents[2]
NUM_IMAGES = 26  # 6 batches of 4, and 2 images left out


class Data(ImageDataModule):
    def __init__(self, *, num=NUM_IMAGES, batch_size=4, class_balanced=False, **options):
        super().__init__(2, batch_size, LoaderSettings(**{"seed": 5, **options}), class_balanced=class_balanced)
        self.num = num

    def setup(self, stage=None):
        self.dataset_train, self.dataset_val = RandomImages(self.num), RandomImages(5)


class Recorder(ExactResume):
    def __init__(self, *, ask_for_steps=True):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.ask_for_steps = ask_for_steps
        self.seen = []
        self.validated = []

    def training_step(self, batch, batch_idx):
        assert batch.epoch == self.current_epoch
        # The pixels too: they show that the random transforms repeat.
        self.seen.append((batch.epoch, batch.index.tolist(), int(batch.images.sum())))
        return self.layer(batch[0].flatten(1).float()).mean() * 1e-6

    def validation_step(self, batch, batch_idx):
        self.validated.append((batch.index.tolist(), int(batch.images.sum())))

    def configure_optimizers(self):
        if self.ask_for_steps:
            assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), 0.1)


def uninterrupted(limits, **options):
    return list(_uninterrupted(frozenset(limits.items()), frozenset(options.items())))


@functools.cache
def _uninterrupted(limits, options):
    """The same for many points of interruption."""
    recorder = Recorder()
    make_trainer(**dict(limits)).fit(recorder, datamodule=Data(**dict(options)))
    return tuple(recorder.seen)


def fit_until_interrupted(recorder, data, stop, **limits):
    trainer = make_trainer(stop, **limits)
    with pytest.raises(Interruption):
        trainer.fit(recorder, datamodule=data)
    # Lightning tears down the validation loop alone when validation fails. Workers that are left to the
    # garbage collector take 5 s each to end.
    trainer.fit_loop.teardown()


def interrupted(path, limits, hook, count, *, ask_for_steps=True, **options):
    first, second = Recorder(ask_for_steps=ask_for_steps), Recorder(ask_for_steps=ask_for_steps)
    stop = SaveAndStop(hook, count, path)
    fit_until_interrupted(first, Data(**options), stop, **limits)
    make_trainer(**limits).fit(second, datamodule=Data(**options), ckpt_path=path, weights_only=True)
    assert stop.num_seen > 0
    return first.seen[: stop.num_seen] + second.seen


@pytest.fixture(autouse=True)
def few_workers_suffice():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        yield


EPOCHS, STEPS = {"max_epochs": 3}, {"max_steps": 17, "max_epochs": -1}
POINTS = [
    pytest.param("on_train_batch_end", 3, {}, id="inside an epoch"),
    pytest.param("on_train_batch_end", 8, {}, id="inside the second epoch"),
    pytest.param("on_train_batch_end", 6, {}, id="after the last batch"),
    pytest.param("on_train_batch_start", 9, {}, id="before a step"),
    pytest.param("on_train_epoch_end", 1, {}, id="end of an epoch"),
    pytest.param("on_validation_end", 1, {}, id="validation after an epoch"),
    pytest.param("on_validation_end", 2, {"val_check_interval": 2}, id="validation inside an epoch"),
    pytest.param("on_validation_end", 3, {"val_check_interval": 2}, id="its last validation"),
    pytest.param("on_train_batch_end", 8, {"limit_train_batches": 5}, id="shortened epochs"),
]


@pytest.mark.parametrize(("hook", "count", "extra"), POINTS)
@pytest.mark.parametrize("limits", [EPOCHS, STEPS], ids=["epochs", "steps"])
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_equals_an_uninterrupted_run(tmp_path, limits, hook, count, extra, workers):
    limits = {**limits, **extra}
    seen = interrupted(tmp_path / "x.ckpt", limits, hook, count, num_workers=workers)
    assert seen == uninterrupted(limits)


@pytest.mark.parametrize("count", [6, 8])
def test_resume_between_and_inside_accumulated_steps(tmp_path, count):
    limits = {"max_epochs": 3, "accumulate_grad_batches": 4}
    assert interrupted(tmp_path / "x.ckpt", limits, "on_train_batch_end", count) == uninterrupted(limits)


def test_resume_without_estimated_stepping_batches(tmp_path):
    seen = interrupted(tmp_path / "x.ckpt", EPOCHS, "on_train_batch_end", 8, ask_for_steps=False, num_workers=2)
    assert seen == uninterrupted(EPOCHS)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_in_pieces_of_max_steps(tmp_path, workers):
    # Lightning counts an epoch that max_steps cuts as finished; the data must go on inside it all the same.
    seen, path = [], None
    for stop in (4, 9, 12, 15, 20):
        recorder, trainer = Recorder(), make_trainer(max_steps=stop)
        trainer.fit(recorder, datamodule=Data(num_workers=workers), ckpt_path=path, weights_only=True)
        seen += recorder.seen
        path = tmp_path / f"{stop}.ckpt"
        trainer.save_checkpoint(path)
    assert seen == uninterrupted({"max_steps": 20})
    for epoch in range(3):
        indices = [i for e, index, _ in seen if e == epoch for i in index]
        assert len(set(indices)) == len(indices) == 24


def test_longer_max_epochs(tmp_path):
    first, second = Recorder(), Recorder()
    trainer = make_trainer(max_epochs=1)
    trainer.fit(first, datamodule=Data())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    make_trainer(max_epochs=3).fit(second, datamodule=Data(), ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    assert first.seen + second.seen == uninterrupted(EPOCHS)


def test_a_new_trainer_starts_afresh_with_a_used_data_module(tmp_path):
    # Used twice over: it has loaded a position, and its epochs are counted apart from Lightning's.
    data, path = Data(num_workers=2), tmp_path / "x.ckpt"
    trainer = make_trainer(max_steps=4)
    trainer.fit(Recorder(), datamodule=data)
    trainer.save_checkpoint(path)
    make_trainer(max_steps=9).fit(Recorder(), datamodule=data, ckpt_path=path, weights_only=True)
    again = Recorder(ask_for_steps=False)
    make_trainer(max_epochs=3).fit(again, datamodule=data)
    assert again.seen == uninterrupted(EPOCHS)


def test_the_checkpoint_seed_wins(tmp_path):
    first, second, path = Recorder(), Recorder(), tmp_path / "x.ckpt"
    stop = SaveAndStop("on_train_batch_end", 3, path)
    fit_until_interrupted(first, Data(), stop, max_epochs=2)
    make_trainer(max_epochs=2).fit(second, datamodule=Data(seed=99), ckpt_path=path, weights_only=True)
    assert first.seen + second.seen == uninterrupted({"max_epochs": 2})


def test_no_warning_about_a_loader_that_cannot_resume(tmp_path, recwarn):
    interrupted(tmp_path / "x.ckpt", EPOCHS, "on_train_batch_end", 3)
    assert not [w for w in recwarn if "not resumable" in str(w.message)]


@pytest.mark.parametrize(
    ("change", "message"), [({"num": 30}, "26 images.* 30"), ({"batch_size": 2}, "4 images at a time.* 2;")]
)
def test_resume_over_changed_data_is_an_error(tmp_path, change, message):
    stop = SaveAndStop("on_train_batch_end", 3, tmp_path / "x.ckpt")
    fit_until_interrupted(Recorder(), Data(), stop, max_epochs=2)
    with pytest.raises(DataError, match=message) as caught:
        make_trainer(max_epochs=2).fit(
            Recorder(), datamodule=Data(**change), ckpt_path=tmp_path / "x.ckpt", weights_only=True
        )
    assert "\n" not in str(caught.value)


class Foreign(pl.LightningModule):
    """A module that knows nothing of this library; it trains, and has to say what it wants to go on from."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = torch.nn.Linear(4, 1), []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch.index.tolist())
        return self.layer(batch[0].flatten(1).float()).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_module_that_does_not_tell_where_to_go_on_is_an_error(tmp_path):
    first, data, path = Foreign(), Data(), tmp_path / "x.ckpt"
    fit_until_interrupted(first, data, SaveAndStop("on_train_batch_end", 3, path), max_epochs=1)
    assert len(first.seen) == 3
    with pytest.raises(ConfigError, match=r"ExactResume.*on_load_checkpoint") as caught:
        make_trainer(max_epochs=1).fit(Foreign(), datamodule=Data(), ckpt_path=path, weights_only=True)
    assert "\n" not in str(caught.value)

    class Told(Foreign):
        def on_load_checkpoint(self, checkpoint):
            resume_exactly(self.trainer, checkpoint)

    second, trainer = Told(), make_trainer(max_epochs=1)
    callbacks = list(trainer.callbacks)
    trainer.fit(second, datamodule=Data(), ckpt_path=path, weights_only=True)
    assert trainer.callbacks == callbacks
    assert first.seen + second.seen == [index for _, index, _ in uninterrupted({"max_epochs": 1})]


def test_another_batch_size_is_fine_between_epochs(tmp_path):
    trainer, second = make_trainer(max_epochs=1), Recorder()
    trainer.fit(Recorder(), datamodule=Data())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    make_trainer(max_epochs=2).fit(
        second, datamodule=Data(batch_size=2), ckpt_path=tmp_path / "x.ckpt", weights_only=True
    )
    assert len(second.seen) == 13
    assert {epoch for epoch, *_ in second.seen} == {1}


def run_ranks(num, limits, *, path=None, stop_after=None, save=None, global_batch=4):
    """What each of several processes sees, run one after another: step by step, the samples of all together."""
    seen = []
    for rank in range(num):
        data = Data(batch_size=global_batch // num, num_replicas=num, rank=rank)
        recorder = Recorder()
        if stop_after is None:
            make_trainer(**limits).fit(recorder, datamodule=data, ckpt_path=path, weights_only=True)
        else:
            target = save if rank == 0 else save.with_suffix(".other")
            fit_until_interrupted(recorder, data, SaveAndStop("on_train_batch_end", stop_after, target), **limits)
        seen.append(recorder.seen)
    return [
        (together[0][0], sorted(i for _, index, _ in together for i in index)) for together in zip(*seen, strict=True)
    ]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("stop_after", [2, 6, 8])
def test_resume_with_another_number_of_processes(tmp_path, before, after, stop_after):
    limits, path = {"max_epochs": 3}, tmp_path / "x.ckpt"
    first = run_ranks(before, limits, stop_after=stop_after, save=path)
    second = run_ranks(after, limits, path=path)
    expected = [(epoch, sorted(index)) for epoch, index, _ in uninterrupted(limits)]
    assert len(first) == stop_after
    assert first + second == expected
    for epoch in range(3):
        indices = [i for e, index in first + second if e == epoch for i in index]
        assert len(indices) == len(set(indices)) == 24


def test_class_balance_does_not_change_inside_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(RandomImages, "targets", [0, 1] * (NUM_IMAGES // 2), raising=False)
    stop, path = SaveAndStop("on_train_batch_end", 3, tmp_path / "x.ckpt"), tmp_path / "x.ckpt"
    fit_until_interrupted(Recorder(), Data(), stop, max_epochs=2)
    with pytest.raises(DataError, match="class_balanced=False"):
        make_trainer(max_epochs=2).fit(
            Recorder(), datamodule=Data(class_balanced=True), ckpt_path=path, weights_only=True
        )
    assert interrupted(path, EPOCHS, "on_train_batch_end", 8, class_balanced=True) == uninterrupted(
        EPOCHS, class_balanced=True
    )


def test_validation_is_the_same_every_time():
    recorder = Recorder()
    make_trainer(max_epochs=2, num_sanity_val_steps=0).fit(recorder, datamodule=Data())
    assert len(recorder.validated) == 4
    assert recorder.validated[:2] == recorder.validated[2:]


TWO_PROCESSES = """
    import json, sys
    from pathlib import Path
    sys.path.insert(0, {here!r})
    from test_data_resume import Data, Recorder, make_trainer

    class Writer(Recorder):
        def on_train_end(self):
            record = dict(seen=[(e, i) for e, i, _ in self.seen], validated=[i for i, _ in self.validated])
            Path({out!r}, f"{{self.global_rank}}.json").write_text(json.dumps(record))

    if __name__ == "__main__":
        # use_distributed_sampler stays at its default: Lightning must leave our sampler alone.
        trainer = make_trainer(strategy="ddp_fork", devices=2, max_epochs=2, num_sanity_val_steps=0)
        trainer.fit(Writer(), datamodule=Data())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_two_processes_share_an_epoch(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(TWO_PROCESSES.format(here=str(Path(__file__).parent), out=str(tmp_path))))
    done = subprocess.run(
        [forked_python(), script], cwd=ROOT, capture_output=True, text=True, timeout=120, env=_environment()
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for epoch in range(2):
        shares = [[i for e, index in rank["seen"] if e == epoch for i in index] for rank in ranks]
        assert [len(share) for share in shares] == [12, 12]
        assert len(set(shares[0] + shares[1])) == 24
    assert {i for rank in ranks for batch in rank["validated"] for i in batch} == set(range(5))


def _environment():
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}
