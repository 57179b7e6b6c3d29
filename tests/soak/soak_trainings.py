"""Three tiny trainings, the shortest that save, validate and resume as long ones do."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jitflow.apps.microdoppler.latent_file import LatentInfo
from jitflow.cli import main as jitflow_main
from jitflow.io.array_file import ArrayFileWriter
from jitflow.verbs.documented import train_documented

STEPS = 300
NET = {"depth": 2, "hidden_size": 32, "num_heads": 2}


def images(folder: Path, inputs: Path, *, by_steps: bool) -> None:
    """``jitflow train`` with accumulation; ten epochs of 31 steps of two batches, the last of one."""
    settings = {
        "run_dir": folder,
        "model.model_name": "JiT-N/4",
        "model.init_args.net_settings": "{depth: 2, hidden_size: 32, num_heads: 2, bottleneck_dim: 16}",
        "data.batch_size": 8,
        "data.num_workers": 0,
        **({"trainer.max_steps": 310, "trainer.max_epochs": 100} if by_steps else {"trainer.max_epochs": 10}),
        "trainer.accelerator": "cpu",
        "trainer.devices": 1,
        "trainer.accumulate_grad_batches": 2,
        "trainer.limit_train_batches": 61,
        "trainer.limit_val_batches": 2,
        "trainer.check_val_every_n_epoch": 1,
        "trainer.log_every_n_steps": 10,
        "checkpoint.save_last_freq": 1,
        "checkpoint.save_last_every_n_steps": 10,
        "checkpoint.save_milestone_freq": 2,
        "checkpoint.keep_milestones": 2,
        "checkpoint.best_name": "best.ckpt",
        "schedule.warmup_epochs": 1,
    }
    words = ["train", "--config", "images/digits"]
    for name, value in settings.items():
        words += [f"--{name.replace('init_args.', '')}", str(value)]
    status = jitflow_main(words)
    if status:
        sys.exit(status)


def text(folder: Path, inputs: Path, *, by_steps: bool) -> None:
    """Text as colour; an epoch of 10 steps, saved and validated after each."""
    train_documented(
        "text",
        {
            "data_path": inputs / "text",
            "model": "JiT-N/4",
            "img_size": 16,
            "net_settings": {**NET, "bottleneck_dim": 16},
            "batch_size": 4,
            "epochs": 100 if by_steps else STEPS // 10,
            "max_steps": STEPS + 5 if by_steps else -1,
            "warmup_epochs": 1,
            "save_interval": 1,
            "val_interval": 1,
            "accelerator": "cpu",
        },
        folder,
    )


def microdoppler(folder: Path, inputs: Path, *, by_steps: bool) -> None:
    """Latents of two users; an epoch of 10 steps, saved and validated after each."""
    train_documented(
        "microdoppler",
        {
            "latent_dir": inputs / "latents",
            "batch_size": 4,
            "max_epochs": 100 if by_steps else STEPS // 10,
            "max_steps": STEPS + 5 if by_steps else -1,
            "model": "LightningDiT-N/4",
            "net_settings": NET,
            "accelerator": "cpu",
        },
        folder,
        settings={"checkpoint.save_last_freq": 1},
    )


# The flag is what ends a training: steps, then inside an epoch, or epochs.
TRAININGS: dict[str, Callable[..., None]] = {"images": images, "text": text, "microdoppler": microdoppler}


def make_inputs(folder: Path) -> None:
    """Write the text and the latents."""
    (folder / "text").mkdir(parents=True)
    words = random.Random(0)
    lines = [" ".join(f"w{words.randrange(30)}" for _ in range(4)) for _ in range(46)]
    (folder / "text" / "a.txt").write_text("\n".join(lines))
    for split, number in (("train", 40), ("val", 8)):
        draws = np.random.default_rng(len(split))
        info = LatentInfo((0.0,) * 4, (1.0,) * 4, "vae_f16d32", "0" * 64, (64, 64), "soak")
        layout = {
            "latents": ((number, 4, 8, 8), "float32"),
            "labels": ((number,), "int64"),
            "user_ids": ((number,), "int64"),
        }
        writer = ArrayFileWriter.create(folder / "latents" / f"{split}.safetensors", layout, info.to_metadata())
        writer.arrays["latents"][:] = draws.standard_normal((number, 4, 8, 8), np.float32)
        writer.arrays["labels"][:] = np.arange(number) % 2
        writer.arrays["user_ids"][:] = np.arange(number) % 2 + 1
        writer.finish()
