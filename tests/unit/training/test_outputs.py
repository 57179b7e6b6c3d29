"""The outputs of a training step: what they hold, in either form, and that nothing else is needed to watch a step."""

import logging

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.nn import functional as F

from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks import FiniteGuard, TrainingProgress, create_default_callbacks
from jitflow.callbacks.history import TrainingHistory
from jitflow.callbacks.watch import TrainingWatch
from jitflow.training.outputs import read_outputs


class Noted(JiTLightningModule):
    """Keeps the times and the parts of the loss of every step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.noted = []

    def loss_parts(self, x1, labels, t, *args, **kwargs):
        velocity = super().loss_parts(x1, labels, t, *args, **kwargs)["velocity"]
        self.noted.append((t, velocity.detach().clone()))
        return {"velocity": velocity, "half": 0.5 * velocity}


class LossAlone(JiTLightningModule):
    """The documented step, which returns a plain loss."""

    def training_step(self, batch, batch_idx):
        images, labels = batch
        x = images.float() / 127.5 - 1.0
        t = self.sample_timestep(x.size(0), device=x.device)
        z = t * x + (1 - t) * torch.randn_like(x) * self.noise_scale
        loss = F.mse_loss(self(z, t.flatten(), self.drop_labels(labels)), x)
        self.log("train/loss", loss)
        return loss


class Skipping(JiTLightningModule):
    """Leaves out every second batch."""

    def training_step(self, batch, batch_idx):
        return None if batch_idx % 2 else super().training_step(batch, batch_idx)


class Outputs(pl.Callback):
    """Keeps the outputs of every step."""

    def __init__(self):
        self.kept = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.kept.append(outputs)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_tells_times_losses_and_parts_without_its_graph(make_module, make_trainer, loader, accumulate):
    module, outputs = make_module(Noted), Outputs()
    trainer = make_trainer(callbacks=[outputs], accumulate_grad_batches=accumulate, limit_train_batches=4)
    trainer.fit(module, loader)
    assert len(outputs.kept) == len(module.noted) == 4
    for given, (t, velocity) in zip(outputs.kept, module.noted, strict=True):
        # Detached already as they are given, so that who keeps them keeps no graph.
        assert not any(x.requires_grad for x in (given["loss"], given["t"], given["losses"], *given["parts"].values()))
        step = read_outputs(given)
        assert torch.equal(step.t, t) and step.t.shape == (4,)
        assert torch.equal(step.losses, velocity + 0.5 * velocity)
        assert step.parts == {"velocity": velocity.mean(), "half": (0.5 * velocity).mean()}
        # Lightning divides what it optimises.
        assert torch.equal(step.loss, torch.stack(list(step.parts.values())).sum() / accumulate)


def test_both_forms_are_read_alike():
    loss, t = torch.tensor(2.0, requires_grad=True), torch.rand(3, 1, 1, 1)
    for outputs in (loss, {"loss": loss}, {"loss": loss, "t": 0.5, "losses": None, "parts": 3, "more": "words"}):
        step = read_outputs(outputs)
        assert step.loss == 2.0 and not step.loss.requires_grad
        assert step.t is None and step.losses is None and not step.parts
    step = read_outputs({"loss": loss, "t": t, "losses": loss * torch.ones(3), "parts": {"velocity": loss}})
    assert torch.equal(step.t, t.flatten())
    assert step.losses.tolist() == [2.0, 2.0, 2.0] and not step.losses.requires_grad
    assert not step.parts["velocity"].requires_grad
    for left_out in (None, {}):
        assert read_outputs(left_out).loss is None


def every_callback(folder):
    """The default ones, and all others that look at the steps; the bar as well."""
    defaults = create_default_callbacks(save_dir=folder, epochs=2, warmup_epochs=1, log_freq=2, enable_fid_eval=False)
    return [*defaults, FiniteGuard(check_every_n_steps=2), TrainingWatch(2), TrainingHistory(), TrainingProgress()]


class Untouched(pl.Callback):
    """Compares the module with what it was before the training, in every step."""

    def seen(self, module):
        methods = {name for name in vars(module) if callable(getattr(type(module), name, None))}
        hooks = [
            (name, len(part._forward_pre_hooks), len(part._forward_hooks), "forward" in vars(part))
            for name, part in module.named_modules()
        ]
        return methods, hooks, set(vars(module))

    def setup(self, trainer, pl_module, stage):
        self.before, self.num_steps = self.seen(pl_module), 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        assert self.seen(pl_module) == self.before
        self.num_steps += 1

    def on_train_end(self, trainer, pl_module):
        assert self.seen(pl_module) == self.before


@pytest.mark.parametrize("cls", [JiTLightningModule, LossAlone])
def test_callbacks_leave_module_and_network_as_they_are(make_module, make_trainer, loader, tmp_path, cls):
    module, untouched = make_module(cls), Untouched()
    trainer = make_trainer(
        callbacks=[*every_callback(tmp_path), untouched],
        enable_checkpointing=True,
        enable_progress_bar=True,
        logger=CSVLogger(tmp_path),
        limit_train_batches=6,
    )
    trainer.fit(module, loader)
    assert untouched.num_steps == 6


@pytest.mark.parametrize("cls", [LossAlone, Skipping])
def test_an_overridden_step_trains_with_every_callback(make_module, make_trainer, loader, tmp_path, caplog, cls):
    callbacks = every_callback(tmp_path)
    module = make_module(cls)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    trainer = make_trainer(
        callbacks=callbacks,
        enable_checkpointing=True,
        enable_progress_bar=True,
        logger=CSVLogger(tmp_path),
        limit_train_batches=6,
        max_epochs=2,
    )
    with caplog.at_level(logging.INFO, logger="jitflow"):
        trainer.fit(module, loader)
    assert any(not torch.equal(p, before[name]) for name, p in module.named_parameters())
    assert module.ema_params1
    (history,) = [c for c in callbacks if isinstance(c, TrainingHistory)]
    assert len(history.losses) == (12 if cls is LossAlone else 6)
    assert sum(message.startswith("epoch ") and "loss" in message for message in caplog.messages) == 6
