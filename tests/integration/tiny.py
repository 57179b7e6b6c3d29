"""Trainings of every application that end within a second, by both ways there are: a recipe and documented words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from jitflow.apps.microdoppler.latent_file import LatentInfo
from jitflow.io.array_file import ArrayFileWriter
from jitflow.io.files import load_checkpoint
from jitflow.run.describe import Run
from jitflow.run.start import resumed_folder
from jitflow.verbs.documented import train_documented

TEXT_NET = {"depth": 1, "hidden_size": 32, "num_heads": 2, "bottleneck_dim": 16}
# 16 tokens an image.
TEXT = {
    "model": "JiT-N/4",
    "img_size": 16,
    "net_settings": TEXT_NET,
    "batch_size": 32,
    "lr": 1e-3,
    "warmup_epochs": 1,
    "accelerator": "cpu",
}


def train_text(
    data_path: Path | str | None = None,
    output_dir: Path | str | None = None,
    *,
    resume: Path | str | None = None,
    restart: bool = False,
    settings: dict[str, Any] | None = None,
    callbacks: Sequence[pl.Callback] = (),
    **words: Any,
) -> Run:
    """Train text as colour as ``jitflow text train`` does, with callbacks."""
    return train_documented(
        "text",
        {"data_path": data_path, **words},
        resumed_folder(resume, output_dir, "./output"),
        resume=resume,
        restart=restart,
        settings=settings,
        callbacks=callbacks,
    )


def write_corpus(folder: Path, *, documents: int = 60) -> Path:
    """Write a small corpus in all three formats; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f"Document {i}: " + " ".join(f"word{(i * 7 + j) % 23}" for j in range(10 + i % 9)) for i in range(documents)
    ]
    (folder / "a.txt").write_text(lines[0])
    (folder / "b.json").write_text(json.dumps([{"text": line} for line in lines[1:20]]))
    (folder / "c.jsonl").write_text(
        "".join(json.dumps({"prompt": line, "answer": "yes"}) + "\n" for line in lines[20:])
    )
    return folder


def write_latents(folder: Path, *, train: int = 40, val: int = 8, shape: tuple[int, int, int] = (4, 8, 8)) -> Path:
    """Write random latents of two users; return their folder."""
    for split, number in (("train", train), ("val", val)):
        draws = np.random.default_rng(len(split))
        info = LatentInfo((0.0,) * shape[0], (1.0,) * shape[0], "vae_f16d32", "0" * 64, (64, 64), "tiny")
        layout = {
            "latents": ((number, *shape), "float32"),
            "labels": ((number,), "int64"),
            "user_ids": ((number,), "int64"),
        }
        writer = ArrayFileWriter.create(folder / f"{split}.safetensors", layout, info.to_metadata())
        writer.arrays["latents"][:] = draws.standard_normal((number, *shape), np.float32)
        writer.arrays["labels"][:] = np.arange(number) % 2
        writer.arrays["user_ids"][:] = np.arange(number) % 2 + 1
        writer.finish()
    return folder


def epochs_done(path: Path) -> int:
    """Finished epochs of a checkpoint."""
    return load_checkpoint(path)["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]


def assert_same_training(a: Path, b: Path) -> None:
    """Two checkpoints are bit-equal: weights, both averages, optimiser, losses so far, counters."""
    one, other = load_checkpoint(a), load_checkpoint(b)
    for section in ("state_dict", "model_ema1", "model_ema2"):
        assert one[section].keys() == other[section].keys()
        for name, value in one[section].items():
            assert torch.equal(value, other[section][name]), (section, name)
    states = [c["optimizer_states"][0]["state"] for c in (one, other)]
    assert states[0].keys() == states[1].keys()
    for place, moments in states[0].items():
        for name, value in moments.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][place][name])), (place, name)
    losses = [c["callbacks"].get("TrainingHistory", {}).get("losses") for c in (one, other)]
    assert losses[0] == losses[1]
    for counter in ("global_step", "epoch"):
        assert one[counter] == other[counter], counter
