"""Logs and record of a run on a full disk: they warn once, lose nothing, and write again once there is room."""

from __future__ import annotations

import resource
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jitflow.errors import CheckpointError, WriteError
from jitflow.run.curves import read_curves
from jitflow.run.folder import RunRecord, read_run_record
from jitflow.run.loggers import RunCSVLogger, RunTensorBoardLogger, log_threads_without_tracebacks
from jitflow.run.recorder import RunRecorder


@contextmanager
def full_disk(num_bytes=4096):
    """Let no file grow beyond a page."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("first", [0, 5, 500])
@pytest.mark.parametrize("names", [("loss",), ("loss", "a/new/one")])
def test_rows_are_kept_until_there_is_room(tmp_path, caplog, first, names):
    logger = RunCSVLogger(tmp_path, "csv", flush_logs_every_n_steps=10_000)
    for step in range(first):
        logger.log_metrics({"loss": 1000.0 + step}, step)
    logger.save()
    file = tmp_path / "csv" / "version_0" / "metrics.csv"
    before = read_curves(tmp_path)
    with full_disk():
        for step in range(first, first + 500):
            logger.log_metrics(dict.fromkeys(names, 1000.0 + step), step)
        for _ in range(2):
            logger.save()
            assert read_curves(tmp_path) == before
    assert len([line for line in caplog.messages if "training continues" in line]) == 1
    logger.save()
    curves = read_curves(tmp_path)
    assert curves["loss"] == [(step, 1000.0 + step) for step in range(first + 500)]
    assert set(curves) == set(names)
    assert len(file.read_text().splitlines()) == 1 + first + 500


def steps_of(folder):
    found = []
    for file in folder.rglob("events.out.tfevents.*"):
        events = EventAccumulator(str(file))
        events.Reload()
        found += [event.step for event in events.Scalars("loss")] if "loss" in events.Tags()["scalars"] else []
    return sorted(found)


def test_events_are_written_again_once_there_is_room(tmp_path, caplog, monkeypatch):
    reported = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    logger = RunTensorBoardLogger(tmp_path, "", "tensorboard")
    logger.log_metrics({"loss": 1.0}, 0)
    logger.save()
    with log_threads_without_tracebacks():
        with full_disk():
            for step in range(1, 1000):
                logger.log_metrics({"loss": 1.0}, step)
            for _ in range(2):
                logger.save()
                logger.log_metrics({"loss": 1.0}, 1000)
        assert len([line for line in caplog.messages if "training continues" in line]) == 1
        files = sorted(tmp_path.rglob("*"))
        with full_disk(0):
            logger.save()
        assert sorted(tmp_path.rglob("*")) == files
        logger.save()
        logger.log_metrics({"loss": 1.0}, 1001)
        logger.finalize("success")
    steps = steps_of(tmp_path)
    assert steps[0] == 0 and steps[-1] == 1001
    assert reported == []


def test_errors_of_other_threads_and_values_are_reported(tmp_path, monkeypatch):
    reported = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: reported.append(failed.exc_type))

    def fail():
        raise OSError(28, "No space left on device")

    with log_threads_without_tracebacks():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    assert reported == [OSError]
    with pytest.raises(ValueError, match="tried to log"):
        RunTensorBoardLogger(tmp_path, "", "tensorboard").log_metrics({"loss": object()}, 0)


def test_a_record_that_cannot_be_written_hides_no_other_error(tmp_path, caplog):
    progress = SimpleNamespace(current=SimpleNamespace(processed=1))
    trainer = SimpleNamespace(is_global_zero=True, global_step=3, fit_loop=SimpleNamespace(epoch_progress=progress))
    recorder = RunRecorder(tmp_path, RunRecord("images", {}, "running"))
    recorder.has_started = True
    with full_disk(0), pytest.raises(CheckpointError, match="the end"), recorder.end_recorded(trainer):
        raise CheckpointError("the end could not be saved")
    assert "run.json" in caplog.text
    with full_disk(0), pytest.raises(WriteError, match=r"run\.json"), recorder.end_recorded(trainer):
        pass
    with pytest.raises(CheckpointError), recorder.end_recorded(trainer):
        raise CheckpointError("the end could not be saved")
    assert read_run_record(tmp_path).state == "failed"
