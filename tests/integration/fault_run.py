"""Train in two processes, one of which misbehaves at the third step; a script for test_faults.py."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch

from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks import JiTModelCheckpoint
from jitflow.data.digits import DigitsDataModule

NET = {"depth": 2, "hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8}


class Fault(pl.Callback):
    """``raise``, ``kill`` or a signal's name, and the rank it happens to, before the third step."""

    def __init__(self, kind: str, rank: int, mark: Path) -> None:
        self.kind, self.rank, self.mark = kind, rank, mark

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step != 3 or trainer.global_rank != self.rank:
            return
        # When it happened, for who measures how long the others take to notice.
        self.mark.touch()
        if self.kind == "raise":
            raise RuntimeError(f"fault of rank {self.rank}")
        os.kill(os.getpid(), getattr(signal, self.kind))


class VanishingData(DigitsDataModule):
    """A loader process that dies."""

    def setup(self, stage=None) -> None:
        super().setup(stage)
        read = self.dataset_train.read_batch

        def killed(index):
            if torch.utils.data.get_worker_info() is not None and os.environ.get("FAULT_WORKER"):
                Path(os.environ["FAULT_WORKER"]).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return read(index)

        self.dataset_train.read_batch = killed


def main(folder: Path, kind: str, rank: int, processes: int) -> None:
    pl.seed_everything(3, verbose=False)
    callbacks = [JiTModelCheckpoint(folder, save_last_every_n_steps=2)]
    mark = folder.with_name(f"{folder.name}.fault")
    if kind == "worker":
        os.environ["FAULT_WORKER"] = str(mark)
    else:
        callbacks.append(Fault(kind, rank, mark))
    trainer = pl.Trainer(
        max_epochs=1000,
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=callbacks,
    )
    module = JiTLightningModule("JiT-N/4", 16, 10, in_channels=1, learning_rate=1e-3, net_settings=NET)
    data = (VanishingData if kind == "worker" else DigitsDataModule)(batch_size=16, num_workers=int(kind == "worker"))
    trainer.fit(module, datamodule=data)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
