"""Averages from the snapshots of a real training against averages tracked beside it; resume; what goes wrong."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from jitflow import __version__
from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks.checkpoint import JiTModelCheckpoint
from jitflow.callbacks.ema_snapshots import EMASnapshotCallback
from jitflow.core.ema import copy_parameters
from jitflow.core.power_ema import exponent_from_width, update_power_ema_
from jitflow.data.digits import DigitsDataModule
from jitflow.errors import ConfigError
from jitflow.training.posthoc_ema import (
    list_snapshots,
    reconstruct_ema,
    snapshot_paths,
    write_snapshot,
)

NUM_STEPS = 200


class Stop(pl.Callback):
    """Break the training like a power cut after a number of batches."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self.after == 0:
            raise RuntimeError("power cut")
        self.after -= 1


class Tracker(pl.Callback):
    """Averages of other widths tracked along, each kept at some steps."""

    def __init__(self, widths, steps) -> None:
        self.widths, self.steps = widths, steps
        self.kept: dict[tuple[int, float], dict[str, torch.Tensor]] = {}
        self._now: dict[float, dict[str, torch.Tensor]] = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        weights, step = dict(pl_module.named_parameters()), trainer.global_step
        for width in self.widths:
            average = self._now.setdefault(width, copy_parameters(weights))
            update_power_ema_(average, weights, step, exponent_from_width(width))
            if step in self.steps:
                self.kept[step, width] = copy_parameters(average)


def make_trainer(*callbacks, max_steps: int, accumulate: int = 1) -> pl.Trainer:
    return pl.Trainer(
        max_steps=max_steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        limit_val_batches=0,
        accelerator="cpu",
        devices=1,
        callbacks=list(callbacks),
        # Lightning's own would write into the working directory.
        enable_checkpointing=any(isinstance(c, JiTModelCheckpoint) for c in callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def make_module(depth_of: str = "JiT-N/4", *, learning_rate: float = 2e-3) -> JiTLightningModule:
    pl.seed_everything(5, verbose=False)
    net = {"depth": 1, "in_context_start": 0}
    return JiTLightningModule(depth_of, 16, 10, in_channels=1, learning_rate=learning_rate, net_settings=net)


def fit(folder: Path, *more, max_steps: int, stop: int | None = None, resume: Path | None = None, **settings):
    """Train with a snapshot every 4 steps and a checkpoint every 3."""
    snapshots = EMASnapshotCallback(folder / "snapshots", every_n_steps=4)
    callbacks = [snapshots, JiTModelCheckpoint(folder, save_last_every_n_steps=3), *more]
    module, data = make_module(), DigitsDataModule(batch_size=16, num_workers=0)
    if stop is None:
        make_trainer(*callbacks, max_steps=max_steps, **settings).fit(module, datamodule=data, ckpt_path=resume)
    else:
        trainer = make_trainer(*callbacks, Stop(stop), max_steps=max_steps, **settings)
        with pytest.raises(RuntimeError, match="power cut"):
            trainer.fit(module, datamodule=data, ckpt_path=resume)
        trainer.fit_loop.teardown()
    return module, snapshots


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in snapshot_paths(folder / "snapshots")}


def relative_error(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], start: dict[str, torch.Tensor]):
    """Relative error of all weights, and of what they moved since the start: a stricter number."""
    assert found.keys() == wanted.keys()
    flat = [torch.cat([d[name].double().flatten() for name in wanted]) for d in (found, wanted, start)]
    error = (flat[0] - flat[1]).norm()
    return float(error / flat[1].norm()), float(error / (flat[1] - flat[2]).norm())


# ---------------------------------------------------------------------------------------------- a real training


TRACKED_WIDTHS = (0.05, 0.07, 0.12, 0.15)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "snapshots"
    module = make_module()
    start = copy_parameters(dict(module.named_parameters()))
    # 170 is a snapshot too: an intermediate one with 34 up to it.
    tracker = Tracker(TRACKED_WIDTHS, {170, NUM_STEPS})
    callback = EMASnapshotCallback(folder, every_n_steps=5)
    trainer = make_trainer(callback, tracker, max_steps=NUM_STEPS)
    trainer.fit(module, datamodule=DigitsDataModule(batch_size=16, num_workers=0))
    return folder, tracker.kept, start, module, callback


@pytest.mark.parametrize("width", TRACKED_WIDTHS)
@pytest.mark.parametrize("step", [170, None])
def test_reconstruction_of_a_training_matches_an_average_tracked_along(trained, width, step, caplog):
    folder, kept, start, *_ = trained
    with caplog.at_level(logging.WARNING, "jitflow"):
        found = reconstruct_ema(folder, width, step=step)
    assert not caplog.records
    error, error_of_the_movement = relative_error(found, kept[step or NUM_STEPS, width], start)
    assert error < 1e-3
    assert error_of_the_movement < 1e-3


def test_a_stored_width_comes_back_bit_for_bit(trained):
    folder, kept, _, _, callback = trained
    found = reconstruct_ema(folder, 0.05)
    for name, average in kept[NUM_STEPS, 0.05].items():
        assert torch.equal(found[name], average), name
        assert torch.equal(callback.averages(0.05)[name], average), name


def test_the_result_serves_as_an_average_of_the_module(trained):
    folder, _, _, module, _ = trained
    found = reconstruct_ema(folder, 0.08)
    assert {name: (v.shape, v.dtype, v.device.type) for name, v in found.items()} == {
        name: (p.shape, torch.float32, "cpu") for name, p in module.named_parameters()
    }
    before = module.ema_params1
    module.ema_params1 = found
    try:
        with module.ema_weights():
            for name, p in module.named_parameters():
                assert torch.equal(p, found[name]), name
        # It differs from the weights, else the above would say nothing.
        assert not torch.equal(module.net.final_layer.linear.weight, found["net.final_layer.linear.weight"])
    finally:
        module.ema_params1 = before


def test_what_a_snapshot_says_of_itself(trained):
    found = list_snapshots(trained[0])
    assert [(s.step, s.width) for s in found] == [(t, w) for t in range(5, 201, 5) for w in (0.05, 0.10)]
    first = found[0]
    assert first.path.name == "step00000005_width0.050.safetensors"
    assert (first.gamma, first.dtype, first.version) == (exponent_from_width(0.05), "float32", __version__)
    assert first.shapes == {name: tuple(p.shape) for name, p in trained[3].named_parameters()}
    assert not [path for path in trained[0].iterdir() if path.name.startswith(".")]


def test_few_snapshots_are_warned_about(trained, tmp_path, caplog):
    for snapshot in list_snapshots(trained[0]):
        if snapshot.step in (50, 100, 150, 200):
            (tmp_path / snapshot.path.name).symlink_to(snapshot.path)
    with caplog.at_level(logging.WARNING, "jitflow"):
        reconstruct_ema(tmp_path, 0.03)
    assert "more snapshots are needed" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "jitflow"):
        reconstruct_ema(tmp_path, 0.07, step=160)
    assert "ask for step 150" in caplog.text


def test_only_files_with_a_share_are_read(trained, tmp_path):
    for snapshot in list_snapshots(trained[0]):
        (tmp_path / snapshot.path.name).symlink_to(snapshot.path)
    # Damaged behind its header, so that only reading the weights would tell.
    last = tmp_path / "step00000200_width0.100.safetensors"
    content = last.read_bytes()
    last.unlink()
    last.write_bytes(content[:-4] + b"\0\0\xc0\x7f")
    wanted, found = reconstruct_ema(trained[0], 0.07, step=100), reconstruct_ema(tmp_path, 0.07, step=100)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert any(v.isnan().any() for v in reconstruct_ema(tmp_path, 0.07).values())


# ------------------------------------------------------------------------------------------------------- resume


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    _, callback = fit(folder, max_steps=18)
    return callback, files_of(folder)


# 13: power fails after step 13; the checkpoint is of step 12, at which there is a snapshot as well.
# 10: it is of step 9, between two snapshots. 17: it is of step 15, and the snapshot of step 16 comes again.
@pytest.mark.parametrize("stop", [10, 13, 17])
def test_resume_goes_on_bit_for_bit(tmp_path, uninterrupted, stop):
    fit(tmp_path, max_steps=18, stop=stop)
    _, callback = fit(tmp_path, max_steps=18, resume=tmp_path / "checkpoint-last.pth")
    whole, files = uninterrupted
    for width in (0.05, 0.10):
        for name, average in whole.averages(width).items():
            assert torch.equal(callback.averages(width)[name], average), name
    # Every 4 steps, and the end.
    assert [s.step for s in list_snapshots(tmp_path / "snapshots")][::2] == [4, 8, 12, 16, 18]
    assert files_of(tmp_path) == files


def test_resume_replaces_later_snapshots(tmp_path, uninterrupted):
    fit(tmp_path, max_steps=18, stop=7)
    checkpoint = tmp_path / "checkpoint-last.pth"
    early = checkpoint.read_bytes()
    fit(tmp_path, max_steps=13, resume=checkpoint)
    # The snapshot of step 13 belongs to a past that no longer is: the state goes back to step 6.
    checkpoint.write_bytes(early)
    poisoned = tmp_path / "snapshots" / "step00000008_width0.050.safetensors"
    write_snapshot(
        poisoned.parent,
        {n: torch.full_like(v, 9.0) for n, v in reconstruct_ema(poisoned.parent, 0.05, step=8).items()},
        step=8,
        width=0.05,
        dtype="float32",
    )
    fit(tmp_path, max_steps=18, resume=checkpoint)
    assert files_of(tmp_path) == uninterrupted[1]


def test_a_failure_before_the_first_snapshot_leaves_all_in_place(tmp_path, uninterrupted):
    folder = tmp_path / "snapshots"
    folder.mkdir()
    for name, content in uninterrupted[1].items():
        (folder / name).write_bytes(content)
    with pytest.warns(UserWarning, match="earlier training"):
        fit(tmp_path, max_steps=18, stop=3)
    assert files_of(tmp_path) == uninterrupted[1]


def test_a_new_training_moves_the_snapshots_of_an_earlier_one_aside(tmp_path, uninterrupted):
    folder = tmp_path / "snapshots"
    folder.mkdir()
    for name, content in uninterrupted[1].items():
        (folder / name).write_bytes(content)
    with pytest.warns(UserWarning, match="10 snapshots .*moved into .*earlier-1"):
        fit(tmp_path, max_steps=5)
    assert [s.step for s in list_snapshots(folder)] == [4, 4, 5, 5]
    assert {path.name: path.read_bytes() for path in snapshot_paths(folder / "earlier-1")} == uninterrupted[1]
    with pytest.warns(UserWarning, match="earlier-2"):
        fit(tmp_path, max_steps=4)
    assert len(list_snapshots(folder / "earlier-2")) == 4


def test_accumulated_batches_count_once(tmp_path):
    _, callback = fit(tmp_path, max_steps=5, accumulate=3)
    assert [s.step for s in list_snapshots(tmp_path / "snapshots")] == [4, 4, 5, 5]
    assert callback.state_dict()["step"] == 5


def test_averages_that_start_late_say_so(tmp_path):
    module, data = make_module(), DigitsDataModule(batch_size=16, num_workers=0)
    checkpoint = JiTModelCheckpoint(tmp_path, save_last_every_n_steps=3)
    make_trainer(checkpoint, max_steps=3).fit(module, datamodule=data)
    start = copy_parameters(dict(module.named_parameters()))
    with pytest.warns(UserWarning, match="start at step 3"):
        module, callback = fit(tmp_path, max_steps=4, resume=tmp_path / "checkpoint-last.pth")
    # As if the weights had been those of step 3 until then: of 4 steps' weights, the last one has 1 - (3/4)^(g+1).
    share = 0.75 ** (exponent_from_width(0.10) + 1)
    for name, p in module.named_parameters():
        expected = share * start[name] + (1 - share) * p.detach()
        torch.testing.assert_close(callback.averages(0.10)[name], expected)


def test_resume_with_other_widths_is_refused(tmp_path):
    fit(tmp_path, max_steps=3)
    other = EMASnapshotCallback(tmp_path / "other", widths=(0.05, 0.2))
    with pytest.raises(ConfigError, match=r"resume with widths=\(0.05, 0.1\)"):
        make_trainer(other, max_steps=4).fit(
            make_module(),
            datamodule=DigitsDataModule(batch_size=16, num_workers=0),
            ckpt_path=tmp_path / "checkpoint-last.pth",
        )


# ---------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps must be at least 1"),
        ({"widths": ()}, "widths is empty"),
        ({"widths": (0.05, 0.3)}, "relative width.*got 0.3"),
        ({"widths": (0.0,)}, "relative width.*got 0.0"),
        ({"widths": (0.05, 0.0501)}, "three decimals"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        EMASnapshotCallback(**arguments)


def test_snapshots_of_another_model_are_refused_before_training(tmp_path):
    write_snapshot(tmp_path, {"net.other.weight": torch.zeros(3)}, step=8, width=0.05, dtype="float32")
    trainer = make_trainer(EMASnapshotCallback(tmp_path), max_steps=2)
    with pytest.raises(ConfigError, match=r"another model.*dirpath"):
        trainer.fit(make_module(), datamodule=DigitsDataModule(batch_size=16, num_workers=0))
    assert trainer.global_step == 0


def test_a_folder_that_cannot_be_is_refused_before_training(tmp_path):
    (tmp_path / "file").touch()
    trainer = make_trainer(EMASnapshotCallback(tmp_path / "file"), max_steps=2)
    with pytest.raises(ConfigError, match="cannot be used"):
        trainer.fit(make_module(), datamodule=DigitsDataModule(batch_size=16, num_workers=0))
