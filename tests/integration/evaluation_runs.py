"""Tiny trainings with an evaluation whose extractor and reference are pixels."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch

from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks.ema import EMACallback
from jitflow.callbacks.evaluation import FIDEvaluationCallback
from jitflow.data.digits import DigitsDataModule
from jitflow.evaluation.features import Features, PixelExtractor
from jitflow.evaluation.moments import Moments

NUM_CLASSES = 5


class Classifying(PixelExtractor):
    """Pixels and logits that depend on them, and a memory of what was asked of it."""

    def __init__(self, side=4):
        super().__init__(side)
        self.images, self.devices = [], []

    def __call__(self, images):
        self.images.append(images)
        features, _ = super().__call__(images)
        return Features(features, 20 * features[:, :6])

    def to(self, device):
        self.devices.append(str(device))
        return self


def make_module(cls=JiTLightningModule, **settings):
    torch.manual_seed(0)
    module = cls("JiT-N/4", 16, 10, in_channels=1, num_sampling_steps=2, **{"learning_rate": 1e-3, **settings})
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn_like(p))
    return module


def reference(extractor):
    data = DigitsDataModule()
    data.setup()
    moments = Moments(extractor.dim)
    moments.update(extractor(data.dataset_train.images).features)
    return moments.mean, moments.covariance


def make_callback(cls=FIDEvaluationCallback, *, eval_freq=1, num_images=45, batch_size=16, **settings):
    extractor = settings.pop("extractor", None) or Classifying()
    settings = {"reference": reference(extractor), **settings}
    extractor.__init__()
    return cls(eval_freq, num_images, batch_size, NUM_CLASSES, 16, extractor=extractor, **settings)


def fit(module, *callbacks, epochs=1, **settings):
    defaults = {
        "max_epochs": epochs,
        "limit_train_batches": 2,
        "limit_val_batches": 0,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(callbacks=[EMACallback(), *callbacks], **{**defaults, **settings})
    trainer.fit(module, datamodule=DigitsDataModule(batch_size=32, seed=0))
    return trainer


class StopEarly(pl.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = True


def diverged(module):
    def generate(labels, use_ema=True):
        return torch.full((len(labels), *module.codec.shape), torch.nan)

    return generate


def assert_fails_before_training(error, message, callback, module=None):
    module = module or make_module()
    module.training_step = lambda *a: pytest.fail("the training began")
    with pytest.raises(error, match=message):
        fit(module, callback)
