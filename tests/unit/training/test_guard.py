"""A loss or gradient that is not finite is found, named, and never saved."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from jitflow.callbacks.checkpoint import JiTModelCheckpoint
from jitflow.callbacks.guard import FiniteGuard, NonFiniteError
from jitflow.data.batch import ImageBatch
from jitflow.errors import ConfigError, JitflowError
from jitflow.io.files import load_checkpoint


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x, t):
        return x * self.weight


class Bad(torch.autograd.Function):
    """Finite forwards, NaN backwards."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


class Tiny(pl.LightningModule):
    """A loss that is told what to be: ``plan`` maps batch numbers to ``loss``, ``gradient``, ``dead`` or a factor."""

    def __init__(self, plan, *, fused=True):
        super().__init__()
        self.net, self.plan, self.fused = Net(), plan, fused

    def training_step(self, batch, batch_idx):
        t = torch.full((2,), 0.25 + batch_idx / 100)
        return {"loss": self.loss(self.net(batch.images, t), self.plan.get(batch_idx)), "t": t}

    def loss(self, x, kind):
        loss = (x**2).mean()
        if kind == "loss":
            return loss * float("inf")
        if kind == "gradient":
            return Bad.apply(x).sum() * 0.1
        if kind == "dead":
            return loss * 0
        return loss * (kind or 1.0)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2, fused=self.fused)


class LossAlone(Tiny):
    """Its step returns a plain loss."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx)["loss"]


def batches(number):
    draws = torch.Generator().manual_seed(0)
    return [
        ImageBatch(torch.randn(2, 3, generator=draws), torch.zeros(2), torch.tensor([2 * i, 2 * i + 1]))
        for i in range(number)
    ]


class Data(pl.LightningDataModule):
    def __init__(self, number, files):
        super().__init__()
        self.number = number
        self.dataset_train = SimpleNamespace(
            samples=[(f"cat/{i}.png", 0) for i in range(2 * number)] if files else None
        )

    def train_dataloader(self):
        return torch.utils.data.DataLoader(batches(self.number), batch_size=None)


def fit(plan, *callbacks, number=12, files=False, fused=True, cls=Tiny, **settings):
    module = cls(plan, fused=fused)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(c, JiTModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **settings,
    )
    trainer.fit(module, datamodule=Data(number, files))
    return module


@pytest.mark.parametrize(
    ("kind", "said"), [("loss", "the loss is inf"), ("gradient", "the norm of the gradient is nan")]
)
def test_the_step_its_samples_and_times_are_named(kind, said):
    with pytest.raises(NonFiniteError) as caught:
        fit({6: kind}, FiniteGuard(check_every_n_steps=4), files=True)
    text = str(caught.value)
    assert isinstance(caught.value, JitflowError)
    assert f"step 7: {said}" in text
    assert "samples 12 (cat/12.png), 13 (cat/13.png)" in text
    assert "times 0.3100 to 0.3100" in text
    assert "nothing was saved yet" in text and "\n" not in text


def test_times_that_the_step_does_not_tell_are_unknown():
    with pytest.raises(NonFiniteError, match="samples 12, 13, times unknown"):
        fit({6: "loss"}, FiniteGuard(check_every_n_steps=4), cls=LossAlone)


def test_nothing_spoilt_is_saved_and_the_last_good_one_is_named(tmp_path):
    saver = JiTModelCheckpoint(tmp_path, save_last_every_n_steps=3)
    with pytest.raises(NonFiniteError, match=rf"step 5: .*the last good checkpoint is {saver.last_path}"):
        fit({4: "gradient"}, FiniteGuard(check_every_n_steps=1000), saver)
    saved = load_checkpoint(saver.last_path)
    assert saved["global_step"] == 3
    assert torch.isfinite(saved["state_dict"]["net.weight"]).all()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(("bad", "found_after"), [(0, 5), (4, 5), (5, 10), (9, 10), (10, 12), (11, 12)])
def test_numbers_are_read_every_so_many_steps_only(bad, found_after):
    class Counter(pl.Callback):
        num_steps = 0

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.num_steps += 1

    counter = Counter()
    with pytest.raises(NonFiniteError, match=f"step {bad + 1}: the loss is inf"):
        fit({bad: "loss"}, counter, FiniteGuard(check_every_n_steps=5))
    assert counter.num_steps == found_after


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_is_skipped_changes_nothing(fused, caplog):
    guard = FiniteGuard("skip", check_every_n_steps=5)
    module = fit({3: "gradient", 7: "gradient"}, guard, fused=fused, gradient_clip_val=1.0)
    assert guard.num_skipped == 2
    # What AdamW does with the other ten batches alone.
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, fused=fused)
    for i, batch in enumerate(batches(12)):
        if i in (3, 7):
            continue
        optimizer.zero_grad()
        (net(batch.images, None) ** 2).mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    assert torch.equal(module.net.weight, net.weight)
    assert "step 4 skipped" in caplog.text and "samples 6, 7" in caplog.text
    assert "2 steps were skipped" in caplog.text


def test_too_many_skipped_steps_are_an_error():
    with pytest.raises(NonFiniteError, match=r"4 of the last 5 .*skipped_share=0\.001"):
        fit(dict.fromkeys(range(1, 9), "gradient"), FiniteGuard("skip", 5, max_skipped_share=0.001))


def test_skips_are_remembered_over_a_resume():
    guard, resumed = FiniteGuard("skip"), FiniteGuard("skip")
    fit({3: "gradient"}, guard)
    resumed.load_state_dict(guard.state_dict())
    assert resumed.num_skipped == 1
    assert resumed.state_dict() == guard.state_dict()


def scaled():
    """The loss scaler of float16, which also works without a GPU."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=4.0))


def test_a_gradient_that_overflows_under_a_loss_scaler_is_no_error():
    # The last batch: nothing after it could show that the step was left out.
    module = fit({3: "gradient"}, FiniteGuard(check_every_n_steps=1), number=4, plugins=scaled(), fused=False)
    assert torch.isfinite(module.net.weight).all()
    with pytest.raises(NonFiniteError, match="step 4: the loss is inf"):
        fit({3: "loss"}, FiniteGuard(check_every_n_steps=1), plugins=scaled(), fused=False)


def test_an_overflow_under_float16_is_left_out_by_the_scaler_and_training_goes_on(caplog):
    plugin = scaled()
    module = fit({3: "gradient", 4: "gradient"}, FiniteGuard(check_every_n_steps=1), plugins=plugin, fused=False)
    assert torch.isfinite(module.net.weight).all() and not torch.equal(module.net.weight, torch.ones(3))
    assert plugin.scaler.get_scale() == 1.0
    assert "skipped" not in caplog.text
    with pytest.raises(NonFiniteError, match="step 6: the loss is inf"):
        fit({5: "loss"}, FiniteGuard(check_every_n_steps=1), plugins=scaled(), fused=False)


def test_a_gradient_that_never_stops_overflowing_is_an_error():
    plan = dict.fromkeys(range(5, 200), "gradient")
    with pytest.raises(NonFiniteError, match=r"step 105: the gradient .*100 .*bf16"):
        fit(plan, FiniteGuard(), number=200, plugins=scaled(), fused=False)
    # Now and then is usual.
    often = {i: "gradient" for i in range(5, 112) if i != 60}
    fit(often, FiniteGuard(), number=115, plugins=scaled(), fused=False)


def test_a_spike_is_one_warning(caplog):
    fit(dict.fromkeys(range(30, 34), 50.0), FiniteGuard(check_every_n_steps=2), number=40)
    assert caplog.text.count("loss spike") == 1
    assert "loss spike before step 32" in caplog.text


def test_usual_losses_are_no_spike(caplog):
    fit({}, FiniteGuard(check_every_n_steps=5), number=60)
    assert "spike" not in caplog.text and "dead" not in caplog.text


def test_a_dead_gradient_is_one_warning(caplog):
    caplog.set_level(logging.WARNING)
    fit(dict.fromkeys(range(4, 10), "dead"), FiniteGuard(check_every_n_steps=2))
    assert caplog.text.count("dead gradient") == 1
    assert "dead gradient before step 6" in caplog.text


def test_accumulated_batches_are_watched_too():
    with pytest.raises(NonFiniteError, match="samples 10, 11"):
        fit({5: "loss"}, FiniteGuard(), accumulate_grad_batches=3)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"on_nonfinite": "ignore"}, "on_nonfinite"),
        ({"check_every_n_steps": 0}, "check_every_n_steps"),
        ({"max_skipped_share": 1.5}, "max_skipped_share"),
        ({"spike_factor": 1.0}, "spike_factor"),
    ],
)
def test_bad_settings_are_refused(settings, name):
    with pytest.raises(ConfigError, match=name):
        FiniteGuard(**settings)
