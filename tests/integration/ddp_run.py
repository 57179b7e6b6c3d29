"""Train on the digits in one or two processes with the same samples, noise and times; a script for test_ddp.py."""

from __future__ import annotations

import sys
from pathlib import Path

import lightning.pytorch as pl
import torch

from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks import (
    EMACallback,
    JiTModelCheckpoint,
    LearningRateSchedulerCallback,
    MetricLoggerCallback,
    SampleGridCallback,
    TrainingProgress,
)
from jitflow.callbacks.training_pictures import TrainingPictures
from jitflow.core.seeding import mix_seeds, noise_from_seeds
from jitflow.data.digits import DigitsDataModule
from jitflow.run.strategy import strategy_for


class Injected(JiTLightningModule):
    """Noise and time of a sample follow from its index, so that they do not depend on the number of processes."""

    def training_step(self, batch, batch_idx):
        images, labels = batch
        x1 = self.codec.encode(images)
        seeds = [mix_seeds(batch.epoch, i) for i in batch.index.tolist()]
        drawn = noise_from_seeds((1 + x1[0].numel(),), seeds)
        t, noise = torch.sigmoid(drawn[:, 0] - 0.8), drawn[:, 1:].reshape(x1.shape)
        loss = self.flow_loss(x1, self.drop_labels(labels), t, noise).mean()
        self.log("train/loss", loss, sync_dist=True, on_step=True)
        return loss


class Losses(pl.Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(float(trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean")))


def main(folder: Path, processes: int, accumulate: int) -> None:
    pl.seed_everything(3, verbose=False)
    module = Injected("JiT-N/4", 16, 10, in_channels=1, learning_rate=1e-3, num_sampling_steps=2)
    losses = Losses()
    trainer = pl.Trainer(
        max_epochs=2,
        limit_train_batches=4,
        limit_val_batches=1,
        accelerator="cpu",
        devices=processes,
        accumulate_grad_batches=accumulate,
        strategy=strategy_for(devices=processes, accumulate=accumulate),
        logger=False,
        enable_progress_bar=True,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[
            EMACallback(),
            JiTModelCheckpoint(folder / "checkpoints", save_last_freq=1),
            LearningRateSchedulerCallback("cosine", warmup_epochs=1, epochs=2),
            MetricLoggerCallback(2),
            SampleGridCallback(1, dirpath=folder / "grids"),
            TrainingPictures(folder / "pictures", share=0.5, num=2),
            TrainingProgress(),
            losses,
        ],
    )
    trainer.fit(module, datamodule=DigitsDataModule(batch_size=32 // processes, seed=0))
    torch.save(
        {
            "losses": losses.losses,
            "weights": {n: p.detach() for n, p in module.named_parameters()},
            "ema1": module.ema_params1,
            "ema2": module.ema_params2,
        },
        folder / f"rank{trainer.global_rank}.pt",
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    if torch.distributed.is_initialized():
        # A process that ends with gloo's threads still running can be aborted after all work is done.
        torch.distributed.destroy_process_group()
