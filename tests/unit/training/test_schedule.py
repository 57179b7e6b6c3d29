"""Learning rate: its formula, and the rate of every step of a fit."""

import logging
import math

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import TensorDataset

from jitflow.callbacks import create_default_callbacks
from jitflow.callbacks.schedule import LearningRateSchedulerCallback, ScheduleSettings
from jitflow.data.base import ImageDataModule
from jitflow.errors import ConfigError


@pytest.mark.parametrize(
    ("epoch", "settings", "expected"),
    [
        (0, {}, 0.0),
        (1, {}, 0.2),
        (4.5, {}, 0.9),
        (5, {}, 1.0),
        (599, {}, 1.0),
        (0, {"warmup_epochs": 0}, 1.0),
        (1, {"lr_schedule": "cosine", "min_lr": 0.5}, 0.2),
        (5, {"lr_schedule": "cosine"}, 1.0),
        (10, {"lr_schedule": "cosine", "epochs": 15}, 0.5),
        (10, {"lr_schedule": "cosine", "epochs": 15, "min_lr": 0.2}, 0.6),
        (7.5, {"lr_schedule": "cosine", "epochs": 15}, 0.5 + 0.125**0.5),
        (15, {"lr_schedule": "cosine", "epochs": 15, "min_lr": 0.2}, 0.2),
        (20, {"lr_schedule": "cosine", "epochs": 15, "min_lr": 0.2}, 0.2),
        (5, {"lr_schedule": "cosine", "epochs": 5, "min_lr": 0.2}, 0.2),
    ],
)
def test_formula(epoch, settings, expected):
    assert ScheduleSettings(**settings).learning_rate(epoch, 1.0) == pytest.approx(expected)
    tripled = ScheduleSettings(**{**settings, "min_lr": 3 * settings.get("min_lr", 0.0)})
    assert tripled.learning_rate(epoch, 3.0) == pytest.approx(3 * expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_schedule": "cosin"}, "did you mean cosine"),
        ({"warmup_epochs": -1}, "negative"),
        ({"min_lr": -1.0}, "negative"),
        ({"epochs": 0}, "positive"),
        ({"warmup_epochs": 6, "epochs": 5}, "longer than the training"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        LearningRateSchedulerCallback(**settings)


class Rates(pl.Callback):
    """Rate of every batch, and of every optimiser step."""

    def __init__(self):
        self.of_batch, self.of_step = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        rates = {group["lr"] for group in trainer.optimizers[0].param_groups}
        assert len(rates) == 1
        self.of_batch.append(rates.pop())

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.of_step.append(optimizer.param_groups[0]["lr"])


def expected_rates(epochs, num_batches):
    """Two epochs of warm-up, then half a cosine over two more, by hand."""
    rates = []
    for epoch in epochs:
        for batch in range(num_batches):
            e = epoch + batch / num_batches
            rates.append(0.01 * e / 2 if e < 2 else 0.01 * 0.5 * (1 + math.cos(math.pi * (e - 2) / 2)))
    return rates


def schedule():
    return LearningRateSchedulerCallback("cosine", warmup_epochs=2, epochs=4)


def test_rate_of_every_batch_under_accumulation_and_a_limit(make_module, make_trainer, loader):
    rates = Rates()
    trainer = make_trainer(
        max_epochs=4, limit_train_batches=6, accumulate_grad_batches=2, callbacks=[schedule(), rates]
    )
    trainer.fit(make_module(learning_rate=0.01), loader)
    expected = expected_rates(range(4), 6)
    assert rates.of_batch == pytest.approx(expected)
    # The batch that makes the step decides.
    assert rates.of_step == pytest.approx(expected[1::2])


def test_rate_where_every_epoch_reads_the_same_batches(make_module, make_trainer):
    class Data(ImageDataModule):
        def setup(self, stage=None):
            self.dataset_train = TensorDataset(torch.zeros(40, 3, 8, 8, dtype=torch.uint8), torch.arange(40) % 5)
            self.dataset_train.classes = range(5)

    rates = Rates()
    trainer = make_trainer(max_epochs=4, overfit_batches=3, callbacks=[schedule(), rates])
    trainer.fit(make_module(learning_rate=0.01), datamodule=Data(8, 4))
    assert rates.of_batch == pytest.approx(expected_rates(range(4), 3))


def test_the_very_first_step_has_rate_zero(make_module, make_trainer, loader):
    module = make_module(learning_rate=0.01)
    before = module.net.blocks[0].attn.qkv.weight.detach().clone()
    make_trainer(max_steps=1, callbacks=[schedule()]).fit(module, loader)
    assert (module.net.blocks[0].attn.qkv.weight == before).all()


@pytest.mark.parametrize("history", ["scheduled", "unscheduled", "scheduled by others"])
def test_the_rate_goes_on_after_a_resume(make_module, make_trainer, loader, tmp_path, history):
    callbacks = [] if history == "unscheduled" else [schedule()]
    first = make_trainer(max_epochs=3, limit_train_batches=5, callbacks=callbacks)
    first.fit(make_module(learning_rate=0.01), loader)
    if history == "scheduled by others":
        # Their optimiser holds the rate of its last step and no trace of ours.
        for group in first.optimizers[0].param_groups:
            assert group.pop("peak_lr") == 0.01 != group["lr"]
    first.save_checkpoint(tmp_path / "last.ckpt")
    rates = Rates()
    second = make_trainer(max_epochs=4, limit_train_batches=5, callbacks=[schedule(), rates])
    second.fit(make_module(learning_rate=0.01), loader, ckpt_path=tmp_path / "last.ckpt")
    assert rates.of_batch == pytest.approx(expected_rates([3], 5))


def test_the_default_callbacks_shorten_a_warm_up_longer_than_half_of_the_training(caplog):
    caplog.set_level(logging.INFO)
    rates = {epochs: _schedule_of_defaults(epochs).warmup_epochs for epochs in (2, 10, 600)}
    assert rates == {2: 1, 10: 5, 600: 5}
    (line,) = [message for message in caplog.messages if "warm-up" in message]
    assert "5 epochs" in line and "half of the training, 1" in line
    with pytest.raises(ConfigError, match="epochs must be positive"):
        create_default_callbacks(epochs=0, warmup_epochs=0, enable_fid_eval=False)


def _schedule_of_defaults(epochs):
    made = create_default_callbacks(epochs=epochs, enable_fid_eval=False)
    (schedule,) = [callback for callback in made if isinstance(callback, LearningRateSchedulerCallback)]
    return schedule
