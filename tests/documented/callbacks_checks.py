"""Checks of the blocks that document the callbacks."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from documented_checks import check, samples

from jitflow.apps.images.module import JiTLightningModule
from jitflow.errors import MissingFileError


def documented_defaults(name, expected):
    """Assert that a callback's documented arguments come first, in this order, with these defaults."""
    import callbacks

    parameters = inspect.signature(getattr(callbacks, name)).parameters.values()
    positional = {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    assert list(positional.items()) == list(expected.items())


@check("callbacks 1")
def _(ns):
    documented_defaults("EMACallback", {"ema_decay1": 0.9999, "ema_decay2": 0.9996})
    model = ns["tiny"](JiTLightningModule)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    ns["fit"](model, callbacks=[ns["ema_callback"]], limit_train_batches=1)
    for decay, average in ((0.9999, model.ema_params1), (0.9996, model.ema_params2)):
        for name, p in model.named_parameters():
            torch.testing.assert_close(average[name], decay * start[name] + (1 - decay) * p.detach())


@check("callbacks 2")
def _(ns):
    documented_defaults(
        "JiTModelCheckpoint", {"dirpath": "./checkpoints", "save_last_freq": 5, "save_milestone_freq": 100}
    )
    from callbacks import EMACallback

    ns["fit"](ns["tiny"](JiTLightningModule), callbacks=[EMACallback(), ns["checkpoint_callback"]])
    saved = torch.load("checkpoints/checkpoint-last.pth", weights_only=True)
    assert {"model", "optimizer", "epoch", "args", "model_ema1", "model_ema2"} <= set(saved)
    assert not Path("checkpoints/checkpoint-0.pth").exists()


@check("callbacks 3")
def _(ns):
    callback = ns["fid_callback"]
    expected = {"eval_freq": 40, "num_images": 50000, "batch_size": 256, "num_classes": 1000, "img_size": 256}
    documented_defaults("FIDEvaluationCallback", {**expected, "use_ema": True})
    assert {name: getattr(callback, name) for name in expected} == expected
    with torch.device("meta"):
        model = JiTLightningModule()
    # There are no statistics here, which must be said before the training.
    with pytest.raises(MissingFileError, match="jit_in256_stats"):
        callback.setup(pl.Trainer(accelerator="cpu", logger=False), model, "fit")


@check("callbacks 4")
def _(ns):
    documented_defaults(
        "LearningRateSchedulerCallback",
        {"lr_schedule": "constant", "warmup_epochs": 5, "min_lr": 0.0, "epochs": 600},
    )
    model = ns["tiny"](JiTLightningModule)
    trainer = ns["fit"](model, callbacks=[ns["lr_callback"]])
    # The last of 8 batches stands at 7/8 of the first of 5 epochs.
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-4 * 7 / 8 / 5)
    assert "train/lr" in trainer.callback_metrics


@check("callbacks 5")
def _(ns):
    documented_defaults("MetricLoggerCallback", {"log_freq": 100})
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("jitflow.callbacks.metrics")
    logger.addHandler(handler)
    level, _ = logger.level, logger.setLevel(logging.INFO)
    try:
        ns["fit"](ns["tiny"](JiTLightningModule), callbacks=[ns["metric_callback"]])
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    # The last batch of an epoch has a line whatever the frequency.
    assert len(lines) == 1
    assert all(word in lines[0] for word in ("[8/8]", "loss", "lr", "step", "data", "images/s", "memory", "ETA"))


def trained_with_defaults(ns, folder):
    assert ns["trainer"].global_step == 8
    assert (Path(folder) / "checkpoint-last.pth").is_file()
    assert ns["model"].ema_params1.keys() == dict(ns["model"].named_parameters()).keys()
    again = JiTLightningModule.load_from_checkpoint(Path(folder) / "last.ckpt")
    assert torch.equal(samples(again), samples(ns["model"]))


@check("callbacks 6")
def _(ns):
    trained_with_defaults(ns, "checkpoints")
    # Without statistics and without being asked for it, there is no evaluation.
    assert "FIDEvaluationCallback" not in {type(c).__name__ for c in ns["callbacks"]}


@check("callbacks 7")
def _(ns):
    ns["trainer"].fit(ns["model"], datamodule=ns["datamodule"])
    trained_with_defaults(ns, "checkpoints")


@check("callbacks 8")
def _(ns):
    from callbacks import create_default_callbacks

    documented_defaults(
        "create_default_callbacks",
        {
            "ema_decay1": 0.9999,
            "ema_decay2": 0.9996,
            "save_dir": "./checkpoints",
            "save_last_freq": 5,
            "save_milestone_freq": 100,
            "eval_freq": 40,
            "num_images": 50000,
            "eval_batch_size": 256,
            "num_classes": 1000,
            "img_size": 256,
            "lr_schedule": "constant",
            "warmup_epochs": 5,
            "min_lr": 0.0,
            "epochs": 600,
            "log_freq": 100,
            "enable_fid_eval": None,
        },
    )
    made = {type(c).__name__: c for c in ns["callbacks"]}
    assert "FIDEvaluationCallback" not in made
    assert str(made["JiTModelCheckpoint"].dirpath) == "output_dir"
    assert made["LearningRateSchedulerCallback"].epochs == 600
    # Asked for, and impossible: an error before the training.
    with pytest.raises(MissingFileError):
        callbacks = create_default_callbacks(num_classes=5, img_size=16, enable_fid_eval=True)
        ns["fit"](ns["tiny"](JiTLightningModule), callbacks=callbacks)


@check("callbacks 9")
def _(ns):
    trained_with_defaults(ns, "outputs/jit_b16_256")
    assert list(Path("logs/jit").rglob("events.out.tfevents.*"))
    assert ns["trainer"].precision == "bf16-mixed"


@check("callbacks 10")
def _(ns):
    averages = ns["model"].ema_params1
    assert ns["ema_callback"] in ns["trainer"].callbacks
    assert ns["ema_state_dict"].keys() == ns["model"].state_dict().keys()
    for name, parameter in ns["model"].named_parameters():
        assert torch.equal(ns["ema_state_dict"][name], averages[name])
        assert torch.equal(parameter, averages[name])


@check("callbacks 11")
def _(ns):
    metrics = ns["callback"].metrics
    assert metrics["eval/fid"] > 0
    assert ns["trainer"].callback_metrics["eval/fid"] == pytest.approx(metrics["eval/fid"])
