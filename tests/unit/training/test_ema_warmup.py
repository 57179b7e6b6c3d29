"""Warm-up of the averages, and the warning about averages that still hold the initial weights."""

import logging

import pytest
import torch

from jitflow.callbacks.ema import EMACallback
from jitflow.checkpoint.convert import convert
from jitflow.checkpoint.load import load_module
from jitflow.core.ema import warmed_up_decay
from jitflow.errors import CheckpointError
from jitflow.export.export import export
from jitflow.inspect.info import describe_path
from jitflow.model import Model
from jitflow.run.describe import describe_run
from jitflow.run.report import render
from jitflow.training.ema_history import EMAHistory

LAYER = "net.final_layer.linear.weight"
DECAYS = {"ema_decay1": 0.9999, "ema_decay2": 0.2, "learning_rate": 1e-2}


def train(module, make_trainer, loader, *, steps=-1, epochs=1, path=None, resume=None):
    callbacks = [EMACallback(module.ema_decay1, module.ema_decay2)]
    trainer = make_trainer(max_steps=steps, max_epochs=epochs, callbacks=callbacks)
    trainer.fit(module, loader, ckpt_path=resume)
    if path is not None:
        trainer.save_checkpoint(path)
    return module


def without_history(path):
    """Remove the history of the averages from a checkpoint, as in a file of an earlier version or of other code."""
    content = torch.load(path, weights_only=True)
    del content["jitflow"]["averages"]
    torch.save(content, path)
    return path


def test_decay_grows_from_2_11ths():
    assert [warmed_up_decay(0.9999, n) for n in (1, 2, 8)] == [2 / 11, 3 / 12, 9 / 18]
    assert warmed_up_decay(0.3, 2) == 3 / 12
    assert warmed_up_decay(0.3, 3) == 0.3
    assert warmed_up_decay(0.9999, 10**6) == 0.9999


def test_first_updates_have_the_decays_of_the_warm_up(make_module, make_trainer, loader):
    before = make_module(**DECAYS, ema_warmup=True)
    weights = []

    class Record(EMACallback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            weights.append(pl_module.net.final_layer.linear.weight.detach().clone())
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    expected = before.net.final_layer.linear.weight.detach().clone()
    trainer = make_trainer(max_steps=3, callbacks=[Record(0.9999, 0.2)])
    trainer.fit(before, loader)
    for weight, decay in zip(weights, (2 / 11, 3 / 12, 4 / 13), strict=True):
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(before.ema_params1[LAYER], expected)
    assert before.ema_history.num_updates == 3
    first, second = before.ema_history.start_shares
    assert first == pytest.approx(2 / 11 * 3 / 12 * 4 / 13)
    assert second == pytest.approx(2 / 11 * 0.2 * 0.2)


def test_a_resumed_warm_up_equals_an_uninterrupted_one(make_module, make_trainer, loader, tmp_path):
    settings = {**DECAYS, "ema_warmup": True}
    whole = train(make_module(**settings), make_trainer, loader, epochs=2)
    half = make_module(**settings)
    half.run_seed = whole.run_seed
    train(half, make_trainer, loader, path=tmp_path / "half.ckpt")
    resumed = train(make_module(**settings), make_trainer, loader, epochs=2, resume=tmp_path / "half.ckpt")
    torch.testing.assert_close(resumed.ema_params1, whole.ema_params1, rtol=0, atol=0)
    assert resumed.ema_history == whole.ema_history


def test_a_file_without_a_count_is_past_its_warm_up(make_module, make_trainer, loader, tmp_path):
    settings = {"ema_decay1": 0.9, "ema_decay2": 0.5, "learning_rate": 1e-2}
    whole = train(make_module(**settings), make_trainer, loader, epochs=2)
    half = make_module(**settings)
    half.run_seed = whole.run_seed
    path = tmp_path / "half.ckpt"
    train(half, make_trainer, loader, path=path)
    resumed = make_module(**settings, ema_warmup=True)
    train(resumed, make_trainer, loader, epochs=2, resume=without_history(path))
    torch.testing.assert_close(resumed.ema_params1, whole.ema_params1, rtol=0, atol=0)
    assert resumed.ema_history.num_updates is None
    assert resumed.ema_history.start_shares[0] == pytest.approx(0.9**20)


def test_the_end_of_a_training_names_what_is_left_of_its_start(make_module, make_trainer, loader, caplog):
    train(make_module(**DECAYS), make_trainer, loader, steps=3)
    (said,) = [r.message for r in caplog.records if "EMA 1" in r.message]
    assert "99 %" in said and "--ema 0" in said and "export" in said
    caplog.clear()
    train(make_module(**DECAYS, ema_warmup=True), make_trainer, loader, steps=3)
    assert "EMA 1" not in caplog.text


@pytest.mark.parametrize("share, warned", [(0.049, False), (0.051, True)])
def test_warning_above_five_percent(share, warned):
    assert (EMAHistory(10, (share, 0.0)).start_warning(1) is not None) is warned
    assert EMAHistory(10, (share, 0.0)).start_warning(2) is None


def test_sampling_warns_once(make_module, make_trainer, loader, tmp_path, caplog):
    train(make_module(**DECAYS), make_trainer, loader, steps=3, path=tmp_path / "short.ckpt")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        model = Model(load_module(tmp_path / "short.ckpt"))
        model.sample(labels=[0], steps=1, ema=0)
        model.sample(labels=[0], steps=1, ema=2)
        assert "EMA" not in caplog.text
        for _ in range(2):
            model.sample(labels=[0], steps=1)
        assert caplog.text.count("EMA 1 still holds 99 %") == 1
    caplog.clear()
    load_module(tmp_path / "short.ckpt").generate(torch.zeros(1, dtype=torch.int64))
    assert "EMA 1 still holds 99 %" in caplog.text


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".ckpt"])
def test_every_format_keeps_the_history(make_module, make_trainer, loader, tmp_path, suffix):
    trained = train(make_module(**DECAYS, ema_warmup=True), make_trainer, loader, steps=3, path=tmp_path / "run.ckpt")
    path = tmp_path / f"converted{suffix}"
    convert(tmp_path / "run.ckpt", tmp_path / "release.pth")
    convert(tmp_path / "release.pth", path)
    loaded = load_module(path)
    assert loaded.ema_history == trained.ema_history
    assert loaded.ema_warmup


def test_weights_in_place_of_averages_hold_no_start(make_module, make_trainer, loader, tmp_path):
    trainer = make_trainer(max_steps=3)
    trainer.fit(make_module(**DECAYS), loader)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    convert(tmp_path / "run.ckpt", tmp_path / "release.pth")
    loaded = load_module(tmp_path / "release.pth")
    assert torch.equal(loaded.ema_params1[LAYER], loaded.net.final_layer.linear.weight)
    assert loaded.ema_history.start_warning(1) is None


def test_info_names_what_is_left_of_the_start(make_module, make_trainer, loader, tmp_path):
    train(make_module(**DECAYS), make_trainer, loader, steps=3, path=tmp_path / "short.ckpt")
    assert "99 %" in describe_path(tmp_path / "short.ckpt").facts["note"]
    assert "99 %" in describe_path(without_history(tmp_path / "short.ckpt")).facts["note"]
    train(make_module(**DECAYS, ema_warmup=True), make_trainer, loader, steps=3, path=tmp_path / "warm.ckpt")
    facts = describe_path(tmp_path / "warm.ckpt").facts
    assert "note" not in facts
    assert facts["averages"] == "EMA 1 (decay 0.9999 after a warm-up), EMA 2 (decay 0.2 after a warm-up)"


def test_report_and_export_name_what_is_left_of_the_start(make_module, make_trainer, loader, tmp_path, caplog):
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    train(make_module(**DECAYS), make_trainer, loader, steps=3, path=checkpoint)
    run = describe_run(tmp_path / "run")
    assert run.note in render(run) and "99 %" in run.note
    caplog.clear()
    export(checkpoint, tmp_path / "exported", license="mit")
    assert "99 %" in caplog.text


@pytest.mark.parametrize(
    "entry", [3, {}, {"num_updates": -1, "start_shares": [0, 0]}, {"num_updates": 1, "start_shares": [2, 0]}]
)
def test_a_damaged_history_is_refused(entry):
    with pytest.raises(CheckpointError, match="history of its averages"):
        EMAHistory.from_state({"averages": entry}, steps=3, settings={})
