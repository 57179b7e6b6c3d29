"""Numbers beside the loss, against the same numbers computed by hand."""

import logging
import re
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from jitflow.apps.images.module import JiTLightningModule
from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.apps.text.module import TextLightningModule
from jitflow.callbacks import EMACallback, TrainingProgress
from jitflow.callbacks import progress as progress_module
from jitflow.callbacks import watch as watch_module
from jitflow.callbacks.utilisation import peak_flops, peak_images_per_sec, training_flops
from jitflow.callbacks.watch import TrainingWatch
from jitflow.errors import ConfigError
from jitflow.inspect.describe import describe_model
from jitflow.run.curves import read_curves


class Noted(JiTLightningModule):
    """Keeps what the watch must not get from elsewhere."""

    def loss_parts(self, x1, labels, t, *args, **kwargs):
        parts = super().loss_parts(x1, labels, t, *args, **kwargs)
        if torch.is_grad_enabled():
            self.noted.append((t.clone(), sum(parts.values()).detach().clone()))
        return parts

    def on_before_optimizer_step(self, optimizer):
        self.norms.append(torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None]).norm().item())


def module(cls=Noted):
    pl.seed_everything(0)
    decays = {"ema_decay1": 0.9, "ema_decay2": 0.5}
    return cls("JiT-N/4", img_size=8, num_classes=3, label_drop_prob=0.0, **decays)


def fit(model, *callbacks, max_steps, folder=None, accumulate=1):
    model.noted, model.norms = [], []
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (24, *model.codec.shape), dtype=torch.uint8, generator=generator)
    data = torch.utils.data.TensorDataset(images, torch.arange(24) % 3)
    trainer = pl.Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=CSVLogger(folder, "csv") if folder else False,
        gradient_clip_val=0.01,
        accumulate_grad_batches=accumulate,
        enable_checkpointing=False,
        enable_progress_bar=any(isinstance(c, TrainingProgress) for c in callbacks),
        enable_model_summary=False,
        log_every_n_steps=1000,
    )
    trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=4), torch.utils.data.DataLoader(data, batch_size=4))
    return trainer


@pytest.mark.parametrize("accumulate", [1, 2])
def test_points_hold_what_was_computed(tmp_path, accumulate):
    model = module()
    fit(model, EMACallback(0.9, 0.5), TrainingWatch(3, num_bins=4), max_steps=7, folder=tmp_path, accumulate=accumulate)
    curves = read_curves(tmp_path)
    assert [step for step, _ in curves["train/grad_norm"]] == [3, 6]
    # Before clipping, which leaves 0.01.
    assert [norm for _, norm in curves["train/grad_norm"]] == pytest.approx([model.norms[2], model.norms[5]], rel=1e-4)
    for first, last, step in ((0, 3, 3), (3, 6, 6)):
        batches = model.noted[first * accumulate : last * accumulate]
        t, losses = (torch.cat(values) for values in zip(*batches, strict=True))
        for i in range(4):
            inside = (t >= i / 4) & (t < (i + 1) / 4)
            point = dict(curves.get(f"loss_at/t{i / 4:.1f}-{(i + 1) / 4:.1f}", ())).get(step)
            assert (point is None) == (not inside.any())
            if point is not None:
                assert point == pytest.approx(losses[inside].mean().item(), rel=1e-4)
    for name in ("train/weight_norm", "train/ema1_norm", "train/ema2_norm", "perf/images_per_sec", "perf/memory_gib"):
        assert len(curves[name]) == 2 and all(value > 0 for _, value in curves[name]), name
    assert "perf/mfu" not in curves


def test_norms_are_those_of_weights_and_averages(tmp_path):
    model = module()
    fit(model, EMACallback(0.9, 0.5), TrainingWatch(4), max_steps=4, folder=tmp_path)
    curves = read_curves(tmp_path)
    weights = torch.cat([p.flatten() for p in model.parameters() if p.requires_grad]).norm().item()
    assert curves["train/weight_norm"] == [(4, pytest.approx(weights, rel=1e-4))]
    for name, average in (("ema1", model.ema_params1), ("ema2", model.ema_params2)):
        norm = torch.cat([p.flatten() for p in average.values()]).norm().item()
        assert curves[f"train/{name}_norm"] == [(4, pytest.approx(norm, rel=1e-4))]


def test_watching_changes_nothing():
    plain = module()
    fit(plain, max_steps=4)
    watched = module()
    fit(watched, TrainingWatch(2), TrainingProgress(), max_steps=4)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))


def test_a_validation_does_not_look_like_slow_steps(tmp_path, monkeypatch):
    """A step and its surroundings take a second each, a validation a thousand."""
    now = [0.0]
    monkeypatch.setattr(watch_module, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    class Slow(pl.Callback):
        def on_train_batch_start(self, *args):
            now[0] += 1

        def on_validation_batch_start(self, *args):
            now[0] += 1000

    fit(module(), Slow(), TrainingWatch(4), max_steps=8, folder=tmp_path)
    # Batches of four; the epoch of six batches ends between the two points.
    assert [rate for _, rate in read_curves(tmp_path)["perf/images_per_sec"]] == pytest.approx([4.0, 4.0])


def test_pictures_of_a_training_do_not_look_like_slow_steps(tmp_path, monkeypatch):
    """A step and its surroundings take a second each, a picture a thousand."""
    now = [0.0]
    monkeypatch.setattr(watch_module, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    class Slow(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            now[0] += 1
            with watch_module.paused_watches(trainer):
                now[0] += 1000

    fit(module(), TrainingWatch(4), Slow(), max_steps=8, folder=tmp_path)
    # A point comes before the second of its own step.
    assert [rate for _, rate in read_curves(tmp_path)["perf/images_per_sec"]] == pytest.approx([16 / 3, 4.0])


def test_a_step_that_tells_the_loss_alone_leaves_out_the_losses_at_times(tmp_path):
    class LossAlone(Noted):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx)["loss"]

    fit(module(LossAlone), TrainingWatch(2), max_steps=4, folder=tmp_path)
    curves = read_curves(tmp_path)
    assert [step for step, _ in curves["train/grad_norm"]] == [2, 4]
    assert not [name for name in curves if name.startswith("loss_at/")]


def test_without_a_logger_there_is_nothing_to_watch(tmp_path):
    fit(module(), TrainingWatch(1), max_steps=1)
    with pytest.raises(ConfigError, match="every_n_steps must be at least 1"):
        TrainingWatch(0)


def test_operations_are_three_forward_passes():
    model = JiTLightningModule("JiT-N/4", img_size=16, num_classes=10)
    assert training_flops(model) == 6 * describe_model("JiT-N/4", img_size=16)["macs"]
    big = JiTLightningModule("JiT-N/4", img_size=32, num_classes=10)
    assert training_flops(big) > 3.5 * training_flops(model)
    assert all(p.device.type == "cpu" for p in model.parameters())


def test_operations_of_the_other_applications():
    net = {"hidden_size": 32, "depth": 1, "num_heads": 2, "bottleneck_dim": 16}
    assert training_flops(TextLightningModule("bytes", img_size=16, net_settings=net)) > 0
    told = TextLightningModule("bytes", img_size=16, net_settings=net, self_conditioning=True)
    assert training_flops(told) > 0
    users = UserConditionedDiT(
        num_users=3,
        model_name="LightningDiT",
        latent_shape=(4, 2, 2),
        net_settings={"patch_size": 1, "hidden_size": 32, "depth": 1, "num_heads": 2},
    )
    assert training_flops(users) > 0
    users.net = torch.nn.Identity()
    assert training_flops(users) is None


def test_utilisation_is_known_for_known_devices_only(monkeypatch):
    model = JiTLightningModule("JiT-N/4", img_size=16, num_classes=10)
    assert peak_flops(torch.device("cpu")) is None and peak_images_per_sec(model, num_devices=2) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert peak_flops(torch.device("cuda")) == 989e12
    monkeypatch.setattr("jitflow.callbacks.utilisation.peak_flops", lambda device: 1e12)
    assert peak_images_per_sec(model, num_devices=2) == pytest.approx(2e12 / training_flops(model))


def test_without_a_terminal_lines_say_step_loss_speed_and_time_left(monkeypatch, caplog):
    clock = iter(float(n) for n in range(10_000))
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(progress_module, "peak_images_per_sec", lambda module, num_devices: 8.0)
    with caplog.at_level(logging.INFO, logger="jitflow"):
        fit(module(), TrainingProgress(line_every_sec=2), max_steps=12)
    lines = [line for line in caplog.messages if line.startswith("step ")]
    # A second passes with each batch of four, and half of the peak's eight.
    assert len(lines) == 6
    for line, step in zip(lines, range(2, 13, 2), strict=True):
        found = re.fullmatch(r"step (\d+)/12  loss \d+\.\d{4}  4\.0 images/s  MFU 50%  \d+\.\d GiB  ETA 0:(\d\d)", line)
        assert found, line
        assert int(found[1]) == step and int(found[2]) == 12 - step


@pytest.mark.parametrize(("first", "said_after"), [(7.0, 4), (30.0, 1)])
def test_the_time_of_the_training_is_said_after_its_first_steps(first, said_after, monkeypatch, caplog):
    """A first step of ``first`` seconds, later ones of three, and 100,000 of them."""
    now = [0.0]
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    progress, trainer = TrainingProgress(line_every_sec=1e9), SimpleNamespace(global_step=0, world_size=1)
    trainer.estimated_stepping_batches = 100_000
    progress.on_train_start(trainer, pl.LightningModule())
    caplog.set_level(logging.INFO)
    for step in range(1, 8):
        # Two batches for each step.
        for seconds in (0.0, first if step == 1 else 3.0):
            trainer.global_step += seconds > 0
            now[0] += seconds
            progress.on_train_batch_end(trainer, None, {"loss": torch.tensor(1.0)}, (None, [0]), 0)
        assert len(caplog.messages) == (step >= said_after)
    each = first if said_after == 1 else 3.0
    (line,) = caplog.messages
    assert f"{100_000 - said_after:,} steps of {each:g} s; {86400 / each:,.0f} of them fit into a day" in line
