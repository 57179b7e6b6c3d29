"""The time of a training before it starts: from a few samples, and without changing anything."""

import random
from contextlib import nullcontext
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from jitflow.apps.images.module import JiTLightningModule
from jitflow.apps.microdoppler.data import LatentDataModule
from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.apps.text.data import TextDataModule
from jitflow.apps.text.module import TextLightningModule
from jitflow.data.digits import DigitsDataModule
from jitflow.io.files import load_checkpoint
from jitflow.io.units import describe_time, format_duration
from jitflow.run import forecast, memory_fit, step_time
from jitflow.run.course import Course
from jitflow.run.fit import fit
from jitflow.run.forecast import forecast_lines, log_forecast
from jitflow.run.recipe import override, read_recipe
from jitflow.run.step_time import time_batch

NET = {"hidden_size": 16, "depth": 1, "num_heads": 2, "bottleneck_dim": 8, "in_context_start": 0}


def images():
    pytest.importorskip("sklearn.datasets")
    module = JiTLightningModule("JiT-N/4", img_size=16, num_classes=10, in_channels=1, net_settings=NET)
    return module, DigitsDataModule(batch_size=8, img_size=16)


def text():
    module = TextLightningModule("bytes", model_name="JiT-N/4", img_size=16, net_settings=NET)
    return module, TextDataModule(img_size=16, batch_size=8)


def latents():
    place = "tests/data/checkpoints_7ea7bf0/data/latents"
    data = LatentDataModule(place, batch_size=4)
    data.setup()
    net = {"hidden_size": 16, "depth": 1, "num_heads": 2, "patch_size": 1}
    shape = data.get_dataset_info()["latent_shape"]
    return UserConditionedDiT(2, "LightningDiT-N/4", shape, net_settings=net), data


@pytest.mark.parametrize("application", [images, text, latents])
def test_timing_changes_nothing(application, request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)
    module, data = application()
    loader = data.train_dataloader()
    module.eval()
    torch.manual_seed(3)
    before = [p.clone() for p in module.parameters()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    seconds, num = time_batch(module, loader, nullcontext, 3)
    assert seconds > 0 and 1 <= num <= 3
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert all(torch.equal(a, b) and a.grad is None for a, b in zip(module.parameters(), before, strict=True))
    assert not any(part.training for part in module.modules())
    first = next(iter(loader)).index
    assert torch.equal(next(iter(data.train_dataloader())).index, first)


def test_time_grows_with_the_samples(monkeypatch):
    """A pass takes 2 units and 3 for each sample."""
    module, data = images()
    now, sizes, unit = [0.0], [], [1.0]

    def training_step(batch, batch_idx):
        sizes.append(len(batch.images))
        now[0] += (2 + 3 * len(batch.images)) * unit[0]
        return {"loss": sum(p.sum() for p in module.parameters() if p.requires_grad)}

    monkeypatch.setattr(step_time, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(module, "training_step", training_step)
    loader = data.train_dataloader()
    # In seconds two fit into the ten that there are, and eight take 26.
    assert time_batch(module, loader, nullcontext, 100) == (26.0, 2) and sizes == [1, 1, 2]
    assert time_batch(module, loader, nullcontext, 1) == (40.0, 1)
    assert time_batch(module, loader, nullcontext, 100, 4) == (40.0, 1)
    unit[0] = 0.125
    assert time_batch(module, loader, nullcontext, 100) == (26 / 8, 8)


@pytest.fixture
def planned():
    """A training of digits on the CPU with accumulated batches."""
    module, data = images()
    trainer = pl.Trainer(accelerator="cpu", devices=1, accumulate_grad_batches=2, logger=False, callbacks=[])
    data.setup("fit")
    return module, data, trainer


def test_lines_say_needs_time_and_what_would_fit(planned, monkeypatch):
    monkeypatch.setattr(forecast, "time_batch", lambda *args: (30.0, 5))
    lines = forecast_lines(*planned, Course(10, 5, 1000.0, 1))
    assert list(lines) == ["needs", "time"]
    # Two batches of half a minute for each of 5,000 steps.
    assert lines["time"].startswith("about 83 h for 5,000 steps of 60 s; 1,440 of them fit into a day")
    assert "a batch of 5" in lines["time"]
    monkeypatch.setattr(memory_fit, "device_memory", lambda device: 1000)
    lines = forecast_lines(*planned, Course(10, 5, 1000.0, 1))
    assert "does not fit" in lines["warning"] and "not timed" in lines["time"]
    monkeypatch.setattr(memory_fit, "device_memory", lambda device: None)
    lines = forecast_lines(*planned, Course(10, 5, 1000.0, 1))
    assert list(lines) == ["needs", "time"] and "a batch of 5" in lines["time"]


def test_large_steps_are_checked_when_a_training_starts(planned, monkeypatch, caplog):
    caplog.set_level("INFO")
    module, data, trainer = planned
    monkeypatch.setattr(forecast, "time_batch", lambda *args: (30.0, 1))
    log_forecast(module, data, trainer, Course(10, 5, 1.0, 1))
    assert not caplog.messages
    monkeypatch.setattr(forecast, "LARGE_STEP", 1)
    log_forecast(module, data, trainer, Course(10, 5, 1.0, 1))
    needs, seconds = caplog.messages
    assert "at the peak of a step of 8" in needs and "about 5.0 min for 5 steps" in seconds
    monkeypatch.setattr(memory_fit, "device_memory", lambda device: 1000)
    log_forecast(module, data, trainer, Course(10, 5, 1.0, 1))
    assert "not timed" in caplog.messages[-2] and "does not fit" in caplog.messages[-1]


def test_a_training_is_the_same_with_and_without_its_forecast(tmp_path, monkeypatch, caplog):
    pytest.importorskip("sklearn.datasets")
    caplog.set_level("INFO")
    short = {"trainer.max_steps": 4, "trainer.accelerator": "cpu", "data.batch_size": 4, "model.net_settings": NET}
    recipe = override(read_recipe("images/digits"), short)
    weights = []
    for name, large in (("without", 1e9), ("with", 1)):
        monkeypatch.setattr(forecast, "LARGE_STEP", large)
        run = fit(recipe, tmp_path / name)
        weights.append(load_checkpoint(run.checkpoint)["state_dict"])
    assert sum("at the peak of a step of 4" in line for line in caplog.messages) == 1
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_class_that_may_need_its_trainer_is_timed_in_the_training(planned):
    class Own(JiTLightningModule):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, self.trainer.global_step)

    module = Own("JiT-N/4", img_size=16, num_classes=10, in_channels=1, net_settings=NET)
    assert "after the first steps" in forecast_lines(module, *planned[1:], Course(10, 5, 1.0, 1))["time"]


def test_durations_are_rough():
    assert [format_duration(sec) for sec in (0.0123, 59, 150, 3000, 8000, 3441600)] == [
        *("0.012 s", "59 s", "2.5 min", "50 min", "2.2 h", "956 h"),
    ]
    assert describe_time(0.5, 100) == "about 50 s for 100 steps of 0.5 s"
