"""What is promised when things break: signals, damaged and unwritable checkpoints, dead processes."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from forked_python import forked_python
from interruption import At, send

from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks import EMACallback, JiTModelCheckpoint, LearningRateSchedulerCallback
from jitflow.callbacks.guard import FiniteGuard
from jitflow.checkpoint.find import find_checkpoint, resume_point
from jitflow.checkpoint.folder import LAST_NAME, PREVIOUS_NAME
from jitflow.cli import main
from jitflow.data.digits import DigitsDataModule
from jitflow.errors import CheckpointError, ConfigError
from jitflow.io.files import load_checkpoint

ROOT = Path(__file__).parents[2]
NET = {"depth": 2, "hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8}


def fit(folder, *more, resume=None, max_epochs=2, max_steps=-1, accumulate_grad_batches=1, **saving):
    pl.seed_everything(7, verbose=False)
    module = JiTLightningModule("JiT-N/4", 16, 10, 0.1, 0.1, in_channels=1, learning_rate=1e-3, net_settings=NET)
    trainer = pl.Trainer(
        max_epochs=max_epochs,
        max_steps=max_steps,
        accumulate_grad_batches=accumulate_grad_batches,
        limit_train_batches=6,
        limit_val_batches=2,
        accelerator="cpu",
        devices=1,
        callbacks=[
            EMACallback(module.ema_decay1, module.ema_decay2),
            LearningRateSchedulerCallback("cosine", warmup_epochs=1, epochs=2),
            FiniteGuard(),
            JiTModelCheckpoint(folder, **{"save_last_freq": 1, "save_last_every_n_steps": 2, **saving}),
            *more,
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule=DigitsDataModule(batch_size=16), ckpt_path=resume)
    return module


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("whole"))


def assert_equal(module, whole):
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, dict(module.named_parameters())[name]), name
        assert torch.equal(whole.ema_params1[name], module.ema_params1[name]), name
        assert torch.equal(whole.ema_params2[name], module.ema_params2[name]), name


# -------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize(
    ("number", "step", "validation", "saved"),
    [(signal.SIGTERM, 4, False, 5), (signal.SIGUSR1, 5, False, 6), (signal.SIGTERM, 6, True, 6)],
    ids=["SIGTERM", "SIGUSR1 in the last step of an epoch", "SIGTERM in a validation"],
)
def test_a_signal_saves_and_ends_and_the_run_goes_on_as_if_nothing_had_been(
    tmp_path, uninterrupted, number, step, validation, saved
):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as caught:
        fit(tmp_path, At(step, send(number), validation=validation))
    assert caught.value.code == 128 + number
    assert signal.getsignal(number) == before
    last = find_checkpoint(tmp_path)
    assert last.name == LAST_NAME and load_checkpoint(last)["global_step"] == saved
    assert_equal(fit(tmp_path, resume=last), uninterrupted)


@pytest.mark.parametrize("limits", [{"max_epochs": 3}, {"max_epochs": 100, "max_steps": 16}], ids=["epochs", "steps"])
def test_runs_that_are_stopped_again_and_again_end_as_one_that_never_was(tmp_path, limits):
    whole = fit(tmp_path / "whole", **limits)
    stops = [
        At(5, send(signal.SIGTERM)),  # in the last step of an epoch
        At(6, send(signal.SIGTERM), validation=True),
        At(8, send(signal.SIGUSR1)),
        At(12, send(signal.SIGTERM), validation=True),
    ]
    for stop in stops:
        with pytest.raises(SystemExit):
            fit(tmp_path / "parts", stop, resume=resume_point(tmp_path / "parts"), **limits)
    assert_equal(fit(tmp_path / "parts", resume=resume_point(tmp_path / "parts"), **limits), whole)
    one, other = (load_checkpoint(tmp_path / name / LAST_NAME) for name in ("whole", "parts"))
    assert one["epoch"] == other["epoch"] == 2
    assert one["loops"]["fit_loop"]["epoch_progress"] == other["loops"]["fit_loop"]["epoch_progress"]


def test_by_steps_with_accumulation_and_longer_each_time(tmp_path):
    settings = {"max_epochs": 100, "accumulate_grad_batches": 4}
    whole = fit(tmp_path / "whole", max_steps=7, **settings)
    for steps in (1, 2, 3, 5, 7):
        # Two steps an epoch, of four batches and of two: some of these end an epoch, the others cut one.
        parts = fit(tmp_path / "parts", resume=resume_point(tmp_path / "parts"), max_steps=steps, **settings)
    assert_equal(parts, whole)


def test_a_signal_in_a_validation_that_nothing_was_saved_before(tmp_path):
    seldom = {"save_last_freq": 50, "save_last_every_n_steps": 1000}
    whole = fit(tmp_path / "whole", **seldom)
    seen = []

    class Seen(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            seen.append(trainer.global_step)

    with pytest.raises(SystemExit) as caught:
        fit(tmp_path / "parts", At(6, send(signal.SIGTERM), validation=True), **seldom)
    assert caught.value.code == 128 + signal.SIGTERM
    found = resume_point(tmp_path / "parts")
    assert load_checkpoint(found)["global_step"] == 6
    assert_equal(fit(tmp_path / "parts", Seen(), resume=found, **seldom), whole)
    # The validation that was broken off is done again.
    assert seen == [6, 12]


def test_an_evaluation_that_fails_costs_itself_alone(tmp_path):
    class Evaluation(pl.Callback):
        """Fails after the second epoch, as from too little memory."""

        fails, done = True, 0

        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 1 and self.fails:
                raise RuntimeError("out of memory")
            Evaluation.done += 1

    saving = {"save_last_freq": 2, "save_last_every_n_steps": None, "max_epochs": 3}
    whole = fit(tmp_path / "whole", **saving)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(tmp_path / "parts", Evaluation(), **saving)
    found = resume_point(tmp_path / "parts")
    assert load_checkpoint(found)["global_step"] == 12
    Evaluation.fails = False
    assert_equal(fit(tmp_path / "parts", Evaluation(), resume=found, **saving), whole)
    assert Evaluation.done == 3


def words(folder, *more):
    settings = {
        "run_dir": folder,
        "model.net_settings": "{depth: 2, hidden_size: 16, num_heads: 2, bottleneck_dim: 8}",
        "data.batch_size": 16,
        "trainer.max_epochs": 2,
        "trainer.limit_train_batches": 4,
        "trainer.accelerator": "cpu",
        "trainer.log_every_n_steps": 1,
        "schedule.warmup_epochs": 1,
        "checkpoint.save_last_every_n_steps": 2,
    }
    given = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return ["train", "--config", "images/digits", *given, *more]


def test_the_same_command_goes_on_with_its_own_unfinished_run(tmp_path, monkeypatch, capsys, caplog):
    caplog.set_level(logging.INFO)
    assert main(words(tmp_path / "whole")) == 0
    signalled = At(2, send(signal.SIGUSR1))
    with monkeypatch.context() as patch:
        # The checkpoint callback's own hook of this name is empty.
        patch.setattr(
            JiTModelCheckpoint, "on_train_batch_start", lambda self, *given: signalled.on_train_batch_start(*given)
        )
        with pytest.raises(SystemExit) as caught:
            main(words(tmp_path / "run"))
    assert caught.value.code == 128 + signal.SIGUSR1
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / LAST_NAME)["global_step"] == 3

    # Other settings are another run, and what is wrong with the words is said before anything else happens.
    for word, value, said in (
        ("--model.learning_rate", "0.5", "model.learning_rate 0.001 (now 0.5)"),
        ("--trainer.limit_train_batches", "3", "trainer.limit_train_batches 4 (now 3)"),
    ):
        assert main(words(tmp_path / "run", word, value)) == 1
        assert said in capsys.readouterr().err

    assert main(words(tmp_path / "run")) == 0
    assert "resuming from" in caplog.text
    whole, parts = (load_checkpoint(tmp_path / f / "checkpoints" / LAST_NAME) for f in ("whole", "run"))
    for name, value in whole["state_dict"].items():
        assert torch.equal(parts["state_dict"][name], value), name

    caplog.clear()
    assert main(words(tmp_path / "run")) == 0
    assert "is finished" in caplog.text
    assert main(words(tmp_path / "run", "--trainer.max_epochs", "3")) == 0
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / LAST_NAME)["global_step"] == 12


# ---------------------------------------------------------------------------------------------- checkpoints


def test_a_damaged_newest_checkpoint_costs_the_steps_since_the_one_before(tmp_path, uninterrupted, caplog):
    with pytest.raises(SystemExit):
        fit(tmp_path, At(7, send(signal.SIGTERM)))
    last = tmp_path / LAST_NAME
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 8
    last.write_bytes(content)
    found = find_checkpoint(tmp_path)
    assert found.name == PREVIOUS_NAME and load_checkpoint(found)["global_step"] == 6
    assert f"{last} is damaged" in caplog.text
    assert_equal(fit(tmp_path, resume=found), uninterrupted)


def test_a_run_goes_on_from_its_best_state_as_well(tmp_path, uninterrupted):
    # Saved in a validation, before the epoch is closed: what is newest after a kill at the wrong moment.
    with pytest.raises(SystemExit):
        fit(tmp_path, At(7, send(signal.SIGTERM)), best_name="best.ckpt", save_last_freq=9, save_last_every_n_steps=4)
    (tmp_path / LAST_NAME).unlink()
    (tmp_path / PREVIOUS_NAME).unlink()
    found = find_checkpoint(tmp_path)
    assert found.name == "best.ckpt" and load_checkpoint(found)["global_step"] == 6
    assert_equal(fit(tmp_path, resume=found), uninterrupted)


class Quota:
    """No file may grow beyond a size, as on a full disk."""

    def __init__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, self.before[1]))

    def off(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def test_a_full_disk_is_reported_and_training_goes_on(tmp_path, uninterrupted, caplog):
    quota = Quota()
    try:
        module = fit(tmp_path, At(3, quota.on), At(9, quota.off))
    finally:
        quota.off()
    assert_equal(module, uninterrupted)
    assert "step 4 could not be saved as" in caplog.text and "File too large; 1 failed so far" in caplog.text
    assert "checkpoints could not be saved during this training" in caplog.text
    assert load_checkpoint(find_checkpoint(tmp_path))["global_step"] == 12
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_at_the_end_is_an_error_and_the_old_checkpoint_is_whole(tmp_path, uninterrupted):
    quota = Quota()
    try:
        with pytest.raises(CheckpointError, match=r"could not be saved .*File too large"):
            fit(tmp_path, At(7, quota.on))
    finally:
        quota.off()
    found = find_checkpoint(tmp_path)
    assert found.name == LAST_NAME and load_checkpoint(found)["global_step"] == 6
    assert_equal(fit(tmp_path, resume=found), uninterrupted)


def test_a_folder_that_cannot_be_written_is_found_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write into"):
        fit(tmp_path / "file" / "checkpoints", At(0, lambda: pytest.fail("trained")))


def test_only_the_newest_milestones_are_kept(tmp_path):
    fit(tmp_path, max_epochs=4, save_milestone_freq=1, keep_milestones=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("checkpoint-2.pth", "checkpoint-3.pth", LAST_NAME, PREVIOUS_NAME, "last.ckpt", "manifest.json")
    ]


# ------------------------------------------------------------------------------------------------ processes


def run_fault(folder, kind, rank, processes=2):
    """Run a training in which a process misbehaves.

    Returns:
        What has ended, and the seconds from the fault to its end.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name in ("PL_GLOBAL_SEED", "WORLD_SIZE", "LOCAL_RANK"):
        environment.pop(name, None)
    script = Path(__file__).with_name("fault_run.py")
    folder = folder / "run"
    # Hanging would take half an hour.
    done = subprocess.run(
        [forked_python(), str(script), str(folder), kind, str(rank), str(processes)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    return done, time.time() - (folder.parent / "run.fault").stat().st_mtime


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", ["raise", "SIGKILL"])
def test_a_process_that_dies_ends_the_run_within_a_minute(tmp_path, kind, rank):
    done, seconds = run_fault(tmp_path, kind, rank)
    assert done.returncode != 0 and seconds < 60
    if kind == "raise":
        assert f"fault of rank {rank}" in done.stderr
    elif rank == 0:
        assert done.returncode == -signal.SIGKILL
    assert load_checkpoint(find_checkpoint(tmp_path / "run"))["global_step"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_processes_stop_at_the_same_step_whichever_gets_the_signal(tmp_path, rank):
    done, _ = run_fault(tmp_path, "SIGTERM", rank)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert load_checkpoint(find_checkpoint(tmp_path / "run"))["global_step"] == 4


def test_a_loader_process_that_dies_ends_the_run_with_its_own_error_within_a_minute(tmp_path):
    done, seconds = run_fault(tmp_path, "worker", 0, processes=1)
    assert done.returncode == 1 and seconds < 60
    assert "DataLoader worker" in done.stderr and "killed by signal: Killed" in done.stderr
