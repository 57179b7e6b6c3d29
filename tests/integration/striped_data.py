"""Pictures of stripes, whose direction is the user's, in the layout of stage 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from jitflow.apps.microdoppler.user_images import find_user_images, read_user_image

USERS, TRAIN, VAL, SIDE = (1, 2, 5), 9, 4, 32


def make_data(root: Path, *, seed: int = 0) -> Path:
    """Stripes whose direction is the user's, with noise; wider than high."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:40, :60]
    for user in USERS:
        for split, count in (("train", TRAIN), ("val", VAL)):
            folder = root / split / f"ID_{user}"
            folder.mkdir(parents=True)
            for i in range(count):
                wave = np.cos((x * np.cos(user) + y * np.sin(user)) / 3 + rng.uniform(0, 6))
                grey = 128 + 80 * wave + rng.normal(0, 20, wave.shape)
                pixels = np.stack([grey, 255 - grey, np.full_like(grey, 40 * user)], -1)
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:03d}.png")
    return root


def pixels_of(data: Path, split: str) -> torch.Tensor:
    images = getattr(find_user_images(data), split)
    return torch.from_numpy(np.stack([read_user_image(image.path, SIDE) for image in images]))


def same_files(a: Path, b: Path) -> None:
    for name in ("train.safetensors", "val.safetensors", "latents_stats.pt", "extraction.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
