"""Stage 3 of micro-Doppler: draw spectrograms of users, one picture each and one of all."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from jitflow import pictures
from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.codec.latent import load_image_codec
from jitflow.core.seeding import mix_seeds
from jitflow.core.solver import get_solver
from jitflow.core.times import time_grid
from jitflow.errors import CheckpointError, ConfigError
from jitflow.io.files import read_json, writable_folder, write_json
from jitflow.io.progress import meter
from jitflow.model import Model, Samples, load

log = logging.getLogger(__name__)

BUILTIN = "builtin"
RECORD_NAME = "generation.json"
GRID_NAME = "micro_doppler_grid.png"
_NAME = re.compile(r"micro_doppler_user\d+_\d+\.png")
# More pictures in a row or column than this would be too small to look at.
_GRID_SIDE = 8


def generate(
    dit_checkpoint: str | Path,
    output_dir: str | Path,
    *,
    vavae_path: str | Path = BUILTIN,
    user_ids: Sequence[int] = (1, 2, 3, 4, 5),
    num_samples_per_user: int = 4,
    guidance_scale: float | None = 4.0,
    num_steps: int | None = 250,
    seed: int = 42,
    device: str | None = None,
    batch_size: int = 32,
    solver: str | None = None,
    interval: tuple[float, float] | None = None,
    ema: float = 1,
) -> Path:
    """Draw pictures of users; what is there already with the same settings is left as it is.

    Args:
        dit_checkpoint: ``best.ckpt`` or any other checkpoint of stage 2.
        output_dir: Folder for ``micro_doppler_user01_001.png`` and so on, the grid and ``generation.json``.
        vavae_path: The VA-VAE that made the latents, or ``builtin`` for the codec inside the checkpoint.
        user_ids: Users' numbers, 1-based.
        num_samples_per_user: Pictures of each.
        guidance_scale: Guidance scale; 1 for none; None for the model's own.
        num_steps: Steps of the solver; None for the model's own.
        seed: Names all pictures: each has a seed made of this one, its user and its number.
        device: ``cpu``, ``cuda``, ...; the fastest there is by default.
        batch_size: Pictures at a time.
        solver: ``euler``, ``heun``, ``midpoint`` or ``multistep``; the model's own by default.
        interval: Times (low, high) between which guidance acts; the model's own by default.
        ema: Average of the weights to use, as in :meth:`jitflow.model.Model.sample`.

    Returns:
        The folder.

    Raises:
        ConfigError: If a setting is out of range, a user unknown, or the VA-VAE another one.
        CheckpointError: If the checkpoint is no user-conditioned model.
    """
    if num_samples_per_user < 1:
        raise ConfigError(f"num_samples_per_user must be at least 1; got {num_samples_per_user}")
    if not user_ids:
        raise ConfigError("user_ids is empty; give at least one user, such as --user_ids 1 2 3")
    if len(set(user_ids)) != len(user_ids):
        raise ConfigError(f"user_ids names a user twice: {list(user_ids)}")
    if num_steps is not None:
        time_grid(num_steps)
    if solver is not None:
        get_solver(solver)
    model = load_user_model(dit_checkpoint, vavae_path=vavae_path, device=device)
    module = model.module
    assert isinstance(module, UserConditionedDiT)
    users = [user for user in user_ids for _ in range(num_samples_per_user)]
    labels = module.labels_of(users)
    if guidance_scale is not None and guidance_scale != 1 and not module.hparams["label_drop_prob"] > 0:
        raise ConfigError('this model never saw "no user" in training, so it cannot be guided; use guidance_scale 1')
    numbers = [i + 1 for _ in user_ids for i in range(num_samples_per_user)]
    seeds = [mix_seeds(seed, user, number) for user, number in zip(users, numbers, strict=True)]
    asked: dict[str, Any] = {
        "dit_checkpoint": str(dit_checkpoint),
        "checkpoint_time_ns": Path(dit_checkpoint).stat().st_mtime_ns,
        "vavae_path": str(vavae_path),
        "user_ids": list(user_ids),
        "num_samples_per_user": num_samples_per_user,
        "guidance_scale": guidance_scale,
        "num_steps": num_steps,
        "solver": solver,
        "interval": list(interval) if interval is not None else None,
        "seed": seed,
        "ema": ema,
    }
    folder = writable_folder(output_dir)
    names = [f"micro_doppler_user{user:02d}_{number:03d}.png" for user, number in zip(users, numbers, strict=True)]
    if _is_finished(folder, asked, names):
        log.info("%s holds these %d pictures already", folder, len(names))
        return folder
    with meter("sampling", len(users), unit="pictures") as progress:
        drawn = model.sample(
            labels,
            seeds,
            guidance=guidance_scale,
            interval=interval,
            solver=solver,
            steps=num_steps,
            ema=ema if module.ema_params1 or ema != 1 else 0,
            batch_size=batch_size,
            on_progress=lambda done, in_all: progress.update(len(users) * done / in_all),
        )
    # Pictures of other settings must not be taken for these.
    for old in folder.iterdir():
        if _NAME.fullmatch(old.name) and old.name not in names:
            old.unlink()
    (folder / RECORD_NAME).unlink(missing_ok=True)
    for name, image in zip(names, drawn.images(), strict=True):
        pictures.save_image(image, folder / name)
    pictures.save_image(_grid(drawn, len(user_ids), num_samples_per_user), folder / GRID_NAME)
    listed = [{"file": name, "user": user, "seed": s} for name, user, s in zip(names, users, seeds, strict=True)]
    write_json(folder / RECORD_NAME, {"asked": asked, "settings": drawn.settings, "images": listed})
    return folder


def load_user_model(path: str | Path, *, vavae_path: str | Path = BUILTIN, device: str | None = None) -> Model:
    """Load a checkpoint of stage 2 with the image codec that its latents need.

    Args:
        path: The checkpoint.
        vavae_path: The VA-VAE that made the latents, or ``builtin`` for the codec inside the checkpoint.
        device: Where to put it; the fastest there is by default.

    Returns:
        The model, ready to sample pictures.

    Raises:
        CheckpointError: If the checkpoint is no user-conditioned model.
        ConfigError: If its latents need another codec.
    """
    model = load(path, device=device)
    module = model.module
    if not isinstance(module, UserConditionedDiT):
        raise CheckpointError(
            f"{path} is a {type(module).__name__}, not a model of stage 2 (UserConditionedDiT); "
            "its name is trained_models/checkpoints/best.ckpt"
        )
    if str(vavae_path) != BUILTIN:
        size = module.codec_record["img_size"] if module.codec_record is not None else 256
        module.attach_codec(load_image_codec(vavae_path, img_size=size if isinstance(size, int) else tuple(size)))
    elif module.latents.images is None:
        # Says which codec made the latents, and what to pass.
        module.latents.decode(torch.zeros(1, *module.latents.shape))
    if module.latents.images is not None:
        module.latents.to(module.device)
    return model


def _grid(drawn: Samples, num_users: int, num_each: int) -> Any:
    """Lay the pictures out, a row for each user, as many as can be looked at."""
    rows, columns = min(num_users, 2 * _GRID_SIDE), min(num_each, _GRID_SIDE)
    pixels = drawn.pixels.unflatten(0, (num_users, num_each))[:rows, :columns].flatten(0, 1)
    return pictures.grid(pixels.numpy(), columns=columns, scale=pictures.display_scale(pixels.shape[-1]))


def _is_finished(folder: Path, asked: dict[str, Any], names: list[str]) -> bool:
    path = folder / RECORD_NAME
    if not path.exists():
        return False
    record = read_json(path)
    same: bool = record.get("asked") == json.loads(json.dumps(asked))
    return same and all((folder / name).exists() for name in [*names, GRID_NAME])
