"""Resuming equals never having stopped: weights, both EMAs, losses, bit for bit on one CPU device."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks import EMACallback, JiTModelCheckpoint, LearningRateSchedulerCallback
from jitflow.callbacks.history import TrainingHistory
from jitflow.data.digits import DigitsDataModule


class Stop(pl.Callback):
    """Break the training like a power cut after a number of batches."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self.after == 0:
            raise RuntimeError("power cut")
        self.after -= 1


def fit(folder: Path, *, stop: int | None = None, resume: Path | None = None, workers: int = 0, accumulate: int = 1):
    pl.seed_everything(7, verbose=False)
    # Dropout on, so that its random state matters too.
    module = JiTLightningModule("JiT-N/4", 16, 10, 0.1, 0.1, in_channels=1, learning_rate=1e-3)
    data = DigitsDataModule(batch_size=128, num_workers=workers)
    history = TrainingHistory()
    callbacks = [
        EMACallback(module.ema_decay1, module.ema_decay2),
        LearningRateSchedulerCallback("cosine", warmup_epochs=1, epochs=2),
        JiTModelCheckpoint(folder, save_last_freq=1, save_last_every_n_steps=3),
        history,
    ]
    if stop is not None:
        callbacks.append(Stop(stop))
    trainer = pl.Trainer(
        max_epochs=2,
        limit_train_batches=8,
        accumulate_grad_batches=accumulate,
        check_val_every_n_epoch=1,
        limit_val_batches=1,
        accelerator="cpu",
        devices=1,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if stop is None:
        trainer.fit(module, datamodule=data, ckpt_path=resume)
    else:
        with pytest.raises(RuntimeError, match="power cut"):
            trainer.fit(module, datamodule=data, ckpt_path=resume)
        trainer.fit_loop.teardown()
    return module, history


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    ("stop", "workers"),
    [(5, 0), (8, 0), (11, 2)],
    ids=["in the first epoch", "between epochs", "in the second epoch, with workers"],
)
def test_an_interrupted_run_ends_like_one_that_was_not(tmp_path, uninterrupted, stop, workers):
    fit(tmp_path, stop=stop, workers=workers)
    module, history = fit(tmp_path, resume=tmp_path / "checkpoint-last.pth", workers=workers)
    whole, whole_history = uninterrupted
    assert len(history.losses) == 16
    assert history.losses == whole_history.losses
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, dict(module.named_parameters())[name]), name
        assert torch.equal(whole.ema_params1[name], module.ema_params1[name]), name
        assert torch.equal(whole.ema_params2[name], module.ema_params2[name]), name


def test_ctrl_c_saves_after_the_step_and_the_run_goes_on_from_there(tmp_path, uninterrupted, monkeypatch):
    before = signal.getsignal(signal.SIGINT)

    class CtrlC(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 4:
                os.kill(os.getpid(), signal.SIGINT)

    original = pl.Trainer.__init__

    def with_ctrl_c(self, *args, callbacks, **kwargs):
        original(self, *args, callbacks=[*callbacks, CtrlC()], **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(pl.Trainer, "__init__", with_ctrl_c)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(tmp_path)
    assert signal.getsignal(signal.SIGINT) == before
    saved = torch.load(tmp_path / "checkpoint-last.pth", weights_only=True)
    assert saved["global_step"] == 5
    module, history = fit(tmp_path, resume=tmp_path / "checkpoint-last.pth")
    assert history.losses == uninterrupted[1].losses
    for name, parameter in uninterrupted[0].named_parameters():
        assert torch.equal(parameter, dict(module.named_parameters())[name]), name


def test_an_interrupted_run_with_accumulation(tmp_path):
    whole, _ = fit(tmp_path / "whole", accumulate=3)
    fit(tmp_path / "parts", stop=11, accumulate=3)
    module, _ = fit(tmp_path / "parts", resume=tmp_path / "parts" / "last.ckpt", accumulate=3)
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, dict(module.named_parameters())[name]), name
        assert torch.equal(whole.ema_params1[name], module.ema_params1[name]), name
