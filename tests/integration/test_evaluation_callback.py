"""Evaluation during a training: its scores, when it happens, and that the training stays as it was."""

from __future__ import annotations

import logging
import random

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from evaluation_runs import NUM_CLASSES, Classifying, StopEarly, diverged, fit, make_callback, make_module
from lightning.pytorch.loggers import CSVLogger

from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks import evaluation
from jitflow.callbacks.evaluation import FIDEvaluationCallback
from jitflow.callbacks.samples import SampleGridCallback, undisturbed
from jitflow.core.seeding import use_seeds
from jitflow.errors import DataError
from jitflow.evaluation.features import PixelExtractor
from jitflow.evaluation.frechet import frechet_distance


def logged_rows(folder):
    header, *rows = (folder / "metrics.csv").read_text().splitlines()
    return [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]


# Few images for so many dimensions is what these tests want.
pytestmark = pytest.mark.filterwarnings("ignore:num_images")


def test_metrics_are_logged_kept_and_right(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(evaluation, "LINE_EVERY_SEC", 0)
    module, callback = make_module(), make_callback()
    with caplog.at_level(logging.INFO, "jitflow"):
        trainer = fit(module, callback, logger=CSVLogger(tmp_path, name="", version=""), log_every_n_steps=1)
    assert set(callback.metrics) == {"eval/fid", "eval/is"}
    assert 1 <= callback.metrics["eval/is"] <= 6
    for name, value in callback.metrics.items():
        assert float(trainer.callback_metrics[name]) == pytest.approx(value, rel=1e-6)
        logged = [float(row[name]) for row in logged_rows(tmp_path) if row.get(name)]
        assert logged == [pytest.approx(value, rel=1e-6)]
    lines = [record.getMessage() for record in caplog.records if record.name == "jitflow.callbacks.evaluation"]
    assert [line.split(" images  ")[0] for line in lines[:3]] == [f"evaluation: {n}/45" for n in (16, 32, 45)]
    assert all("images/s  ETA 0:0" in line for line in lines[:3])
    assert lines[3].startswith("evaluation after 1 epochs (0:0") and "eval/fid" in lines[3] and len(lines) == 4

    images = torch.cat(callback.extractor.images)
    assert images.shape == (45, 1, 16, 16) and callback.extractor.devices == ["cpu", "cpu"]
    features = PixelExtractor(4)(images).features.double()
    expected = frechet_distance(features.mean(dim=0), torch.cov(features.T), *callback.reference)
    assert callback.metrics["eval/fid"] == pytest.approx(expected, rel=1e-6)
    # The images are those that the averages draw for balanced labels and the seeds 0, 1, ...
    with use_seeds(range(45)):
        samples = module.generate(torch.arange(45) % NUM_CLASSES)
    assert (module.codec.decode(samples).int() - images.int()).abs().max() <= 1


def test_the_raw_weights_are_used_on_request():
    found = {}
    for use_ema in (True, False):
        callback = make_callback(use_ema=use_ema)
        fit(make_module(learning_rate=0.1), callback)
        found[use_ema] = callback.metrics["eval/fid"]
    assert found[True] != pytest.approx(found[False], rel=1e-3)


def test_the_batch_size_does_not_matter():
    found = []
    for batch_size in (7, 64):
        callback = make_callback(batch_size=batch_size)
        fit(make_module(), callback)
        found.append(callback.metrics)
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_an_override_may_add_to_the_metrics():
    epochs = []

    class Custom(FIDEvaluationCallback):
        def _evaluate(self, trainer, pl_module, epoch):
            metrics = super()._evaluate(trainer, pl_module, epoch)
            epochs.append(epoch)
            metrics["eval/mine"] = torch.tensor(0.25)
            return metrics

    callback = make_callback(Custom)
    trainer = fit(make_module(), callback, epochs=2)
    assert epochs == [0, 1]
    assert callback.metrics["eval/mine"] == 0.25 and "eval/fid" in callback.metrics
    assert float(trainer.callback_metrics["eval/mine"]) == 0.25


def test_an_overridden_generate_counts():
    class Black(JiTLightningModule):
        def generate(self, labels, use_ema=True):
            return super().generate(labels, use_ema) * 0 - 1

    callback = make_callback()
    fit(make_module(Black), callback)
    assert int(torch.cat(callback.extractor.images).max()) == 0


class Counting(FIDEvaluationCallback):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.epochs = []

    def _evaluate(self, trainer, pl_module, epoch):
        self.epochs.append(epoch)
        return {"eval/fid": float(epoch)}


@pytest.mark.parametrize(
    ("eval_freq", "settings", "expected"),
    [
        (2, {"max_epochs": 4}, [1, 3]),
        (2, {"max_epochs": 3}, [1, 2]),
        (5, {"max_epochs": 2}, [1]),
        (5, {"max_epochs": -1, "max_steps": 3}, [1]),
        (1, {"fast_dev_run": True}, []),
    ],
)
def test_when_it_evaluates(eval_freq, settings, expected):
    callback = make_callback(Counting, eval_freq=eval_freq)
    fit(make_module(), callback, **settings)
    assert callback.epochs == expected


def test_the_end_of_a_training_that_stops_early_is_evaluated_and_logged(tmp_path):
    callback = make_callback(Counting, eval_freq=5)
    trainer = fit(make_module(), callback, StopEarly(), epochs=9, logger=CSVLogger(tmp_path, name="", version=""))
    assert callback.epochs == [0] and float(trainer.callback_metrics["eval/fid"]) == 0
    assert [row["eval/fid"] for row in logged_rows(tmp_path) if row.get("eval/fid")] == ["0.0"]
    # The same callback in a second training begins anew.
    fit(make_module(), callback, StopEarly(), epochs=9)
    assert callback.epochs == [0, 0]


def snapshot(module):
    return (
        {name: p.clone() for name, p in module.named_parameters()},
        {name: p.clone() for name, p in module.ema_params1.items()},
        [part.training for part in module.modules()],
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
    )


def assert_same(before, after):
    for old, new in zip(before[:2], after[:2], strict=True):
        assert old and all(torch.equal(old[name], new[name]) for name in old)
    assert before[2] == after[2]
    assert torch.equal(before[3], after[3])
    assert before[4:] == after[4:]


class Watch(pl.Callback):
    """Take the state of everything before the evaluation; in the list of callbacks it comes first."""

    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.net.blocks[1].eval()
        self.before = snapshot(pl_module)


@pytest.mark.parametrize("failure", ["override", "network", "nan", "extractor"])
def test_a_failing_evaluation_leaves_the_training_as_it_was(failure):
    module, watch = make_module(), Watch()

    class Failing(FIDEvaluationCallback):
        def _evaluate(self, trainer, pl_module, epoch):
            random.random(), np.random.rand(), torch.rand(1)
            if failure == "override":
                # Not even a swap that forgets to swap back does harm.
                for parameter in pl_module.parameters():
                    parameter.data = parameter.data * 0
                pl_module.train()
                raise RuntimeError("on purpose")
            with pl_module.ema_weights(2):
                return super()._evaluate(trainer, pl_module, epoch)

    class Broken(Classifying):
        def __call__(self, images):
            if len(self.images) == 1:
                raise RuntimeError("on purpose")
            return super().__call__(images)

    callback = make_callback(Failing, extractor=Broken() if failure == "extractor" else None)
    calls = []
    if failure == "network":

        def forward(self, inputs):
            calls.append(1)
            if len(calls) == 5:
                raise RuntimeError("on purpose")

        module.net.blocks[2].register_forward_pre_hook(lambda *a: forward(*a) if not module.training else None)
    if failure == "nan":
        module.generate = diverged(module)
    kind, message = (DataError, "16 of 16 generated images") if failure == "nan" else (RuntimeError, "on purpose")
    with pytest.raises(kind, match=message):
        fit(module, watch, callback)
    assert_same(watch.before, snapshot(module))
    assert callback.metrics == {} and callback.extractor.devices[-1] == "cpu"


def test_evaluation_and_grids_do_not_change_the_training(tmp_path):
    losses = []

    class Losses(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            losses.append(float(outputs["loss"]))

    modules = []
    for extra in ([], [make_callback(), SampleGridCallback(1, dirpath=tmp_path)]):
        pl.seed_everything(5, verbose=False)
        modules.append(make_module(attn_dropout=0.1))
        fit(modules[-1], *extra, Losses(), epochs=2)
    assert len(losses) == 8 and losses[:4] == losses[4:]
    assert_same(*(snapshot(module)[:3] + snapshot(modules[0])[3:] for module in modules))


def test_parts_of_the_model_keep_their_own_mode():
    module = make_module()
    module.net.blocks[1].eval()
    before = [part.training for part in module.modules()]
    with undisturbed(module):
        assert not any(part.training for part in module.modules())
    assert [part.training for part in module.modules()] == before


def test_mixed_precision_reaches_the_network_only():
    callback, seen = make_callback(), []
    module = make_module()

    def look(part, inputs, output):
        if not module.training:
            seen.append(output.dtype)

    module.net.blocks[0].attn.qkv.register_forward_hook(look)
    samples = module.generate

    def generate(labels, use_ema=True):
        out = samples(labels, use_ema)
        seen.append(("sample", out.dtype))
        return out

    module.generate = generate
    fit(module, callback, precision="bf16-mixed")
    assert set(seen) == {torch.bfloat16, ("sample", torch.float32)}
