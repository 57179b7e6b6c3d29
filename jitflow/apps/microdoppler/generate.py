"""Stage 3 of micro-Doppler: sample spectrograms of users into a folder; a finished folder is left unchanged."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.apps.microdoppler.sampling import UserSamples
from jitflow.checkpoint.find import find_model
from jitflow.core.seeding import mix_seeds
from jitflow.core.solver import get_solver
from jitflow.core.times import time_grid
from jitflow.errors import MOST_SAMPLES, ConfigError, check_count
from jitflow.io.files import read_json, writable_folder
from jitflow.io.json_text import plain_copy
from jitflow.io.progress import meter
from jitflow.io.results_folder import free_folder
from jitflow.model import BUILTIN, Model, load
from jitflow.training.precision import AUTO, resolve_precision

log = logging.getLogger(__name__)

RECORD_NAME = UserSamples.record_name
GRID_NAME = UserSamples.grid_name


def generate(
    dit_checkpoint: str | Path,
    output_dir: str | Path,
    *,
    vavae_path: str | Path = BUILTIN,
    user_ids: Sequence[int] | None = None,
    num_samples_per_user: int = 4,
    guidance_scale: float | None = 4.0,
    num_steps: int | None = 250,
    seed: int = 42,
    device: str | None = None,
    batch_size: int = 32,
    precision: str = AUTO,
    solver: str | None = None,
    interval: tuple[float, float] | None = None,
    ema: float = 1,
    **further: Any,
) -> Path:
    """Sample spectrograms of users; a folder finished with the same settings is left unchanged.

    Args:
        dit_checkpoint: ``best.ckpt`` or any other checkpoint of stage 2, or the run's folder.
        output_dir: Folder for ``micro_doppler_user01_001.png`` and so on, the grid and ``generation.json``. If it holds
            pictures of other settings, these go to a numbered folder beside it.
        vavae_path: The autoencoder that made the latents, or ``builtin`` for the codec inside the checkpoint.
        user_ids: User ids, 1-based; every user of the model by default.
        num_samples_per_user: Pictures of each user.
        guidance_scale: Guidance scale; 1 for none; None for the model's own.
        num_steps: Steps of the solver; None for the model's own.
        seed: Determines all pictures: each picture's seed is derived from this one, its user and its number.
        device: ``cpu``, ``cuda``, ...; the fastest available by default.
        batch_size: Pictures at a time.
        precision: Precision inside the network, as in :meth:`jitflow.model.Model.sample`.
        solver: ``euler``, ``heun``, ``midpoint``, ``multistep`` or ``consistency``; the model's own by default.
        interval: Times (low, high) between which guidance acts; the model's own by default.
        ema: Average of the weights to use, as in :meth:`jitflow.model.Model.sample`; 1 falls back to the weights if
            there is no average.
        further: ``conditions`` and ``guide_by`` of :meth:`jitflow.model.Model.sample`; None for the model's own.

    Returns:
        The folder.

    Raises:
        ConfigError: If a setting is out of range, a user unknown, or the autoencoder a different one.
        CheckpointError: If the checkpoint is not a user-conditioned model.
    """
    check_count("num_samples_per_user", num_samples_per_user, most=MOST_SAMPLES)
    if user_ids is not None and not user_ids:
        raise ConfigError("user_ids is empty; give at least one user, such as --user_ids 1 2 3")
    if user_ids is not None and len(set(user_ids)) != len(user_ids):
        raise ConfigError(f"user_ids names a user twice: {list(user_ids)}")
    if num_steps is not None:
        time_grid(num_steps)
    if solver is not None:
        get_solver(solver)
    dit_checkpoint = find_model(dit_checkpoint)
    model = load(dit_checkpoint, application=UserConditionedDiT.application, device=device, vavae_path=vavae_path)
    precision = resolve_precision(precision, model.module.device)
    if user_ids is None:
        assert isinstance(model.module, UserConditionedDiT)
        user_ids = model.module.user_ids
    given = {name: value for name, value in further.items() if value is not None}
    seeds = _picture_seeds(model, user_ids, num_samples_per_user, seed, given)
    requested: dict[str, Any] = {
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
        "precision": precision,
        **given,
    }
    requested = plain_copy(requested)  # as it is read from a record
    folder = writable_folder(free_folder(output_dir, lambda taken: _asked_of(taken) not in (None, requested)))
    if _is_finished(folder, requested):
        log.info("%s already holds these %d pictures", folder, len(seeds))
        return folder
    with meter("sampling", len(seeds), unit="pictures") as progress:
        drawn = model.sample(
            users=user_ids,
            num=num_samples_per_user,
            seeds=seeds,
            guidance=guidance_scale,
            interval=interval,
            solver=solver,
            steps=num_steps,
            ema=None if ema == 1 else ema,
            batch_size=batch_size,
            precision=precision,
            on_progress=progress.update_share,
            **given,
        )
    assert isinstance(drawn, UserSamples)
    return drawn.save(folder, asked=requested)


def _picture_seeds(model: Model, user_ids: Sequence[int], each: int, seed: int, given: Mapping[str, Any]) -> list[int]:
    """Check the request, before its folder is made, and return a seed for each picture, by user and number."""
    model.check_settings(guide_by=given.get("guide_by"))
    asked = model.ask(users=user_ids, num=each, conditions=given.get("conditions"))
    # Each combination of conditions is drawn as often.
    numbers = range(1, 1 + len(asked) // len(user_ids))
    return [mix_seeds(seed, user, number) for user in user_ids for number in numbers]


def _is_finished(folder: Path, requested: dict[str, Any]) -> bool:
    """Whether the folder holds every picture of a call with the same settings."""
    path = folder / RECORD_NAME
    if not path.exists():
        return False
    names = [name for e in read_json(path).get("images", []) for name in (e["file"], e.get("array")) if name]
    return _asked_of(folder) == requested and all((folder / name).exists() for name in [*names, GRID_NAME])


def _asked_of(folder: Path) -> Any:
    """Return the settings that a folder's pictures were made with; None if it has no record."""
    path = folder / RECORD_NAME
    # A folder of `jitflow sample` or of an export has no such settings, and is no folder of stage 3.
    return read_json(path).get("asked", {}) if path.exists() else None
