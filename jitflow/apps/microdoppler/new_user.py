"""Add a user to a trained model from a few spectrograms: learn a row of the user table, and leave all else as it is.

The samples of the other users stay the same to the last bit, and the result is an ordinary checkpoint. Learning only
an embedding of a frozen generator is the idea of textual inversion (Gal et al. 2022, arXiv:2208.01618).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jitflow.apps.microdoppler.arrays.description import ArrayDescription
from jitflow.apps.microdoppler.condition_columns import label_codes
from jitflow.apps.microdoppler.latent_rows import encode_rows
from jitflow.apps.microdoppler.manifest import find_manifest, read_manifest
from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.apps.microdoppler.user_files import UserFile, sample_suffixes
from jitflow.apps.microdoppler.user_images import ImageReader
from jitflow.checkpoint.state import ModelState
from jitflow.core.combinations import Combinations
from jitflow.core.condition_table import with_conditions
from jitflow.data.seeded import seeded_randomness
from jitflow.errors import ConfigError, DataError, MissingFileError
from jitflow.io.file_tree import list_tree

log = logging.getLogger(__name__)

TABLE = "net.y_embedder.embedding_table.weight"
FEWEST, MOST = 2, 1000
"""Numbers of spectrograms of a new user that are taken."""
# Loss before and after is measured at as many times and noises of each spectrogram.
_MEASURED = 16
_LARGEST_BATCH = 32


def find_new_files(folder: Path, module: UserConditionedDiT) -> list[UserFile]:
    """Find the spectrograms of a new user: all of a folder, or of a manifest with the columns of the conditions.

    Args:
        folder: The folder.
        module: The model, which says whether they are arrays.

    Returns:
        The files, sorted by name.

    Raises:
        MissingFileError: If the folder does not exist.
        DataError: If there are too few or too many files, files of several users, or arrays for a model of pictures.
    """
    if not folder.is_dir():
        raise MissingFileError(f"{folder} is not a folder; name one with the spectrograms of the new user")
    manifest, table = find_manifest(folder), module.conditions
    if manifest is not None:
        stated = None if table is None else dict.fromkeys(table.conditions, "auto")
        parts, _ = read_manifest(manifest, ArrayDescription(conditions=stated))
        users = {user for part in parts.values() for user in part}
        if len(users) > 1:
            raise DataError(f"{manifest} has {len(users)} users; give the files of the new user alone")
        files = [file for part in parts.values() for found in part.values() for file in found]
    else:
        suffixes, are_arrays = sample_suffixes(folder, described=module.arrays is not None)
        if are_arrays and module.arrays is None:
            raise DataError(f"{folder} has arrays, and the model was trained on pictures; give it pictures")
        files = [UserFile(path) for path in list_tree(folder).files(suffixes)]
        if table is not None:
            log.info("%s has no manifest, so that any %s is taken", folder, ", ".join(table.conditions))
    if not FEWEST <= len(files) <= MOST:
        raise DataError(f"{folder} has {len(files)} spectrograms of the new user; give {FEWEST} to {MOST}")
    return files


def encode_files(module: UserConditionedDiT, files: Sequence[UserFile], first_seed: int) -> Tensor:
    """Encode spectrograms with the codec of a model, as stage 1 does.

    Args:
        module: The model.
        files: The spectrograms.
        first_seed: Seed of the draws from the latents' distribution, where the codec has one.

    Returns:
        Latents, shape ``(N, Z, h, w)``, float32, not normalised.

    Raises:
        DataError: If a file is damaged, or its latents are not finite.
    """
    assert module.codec_record is not None
    read = ImageReader(int(module.codec_record["img_size"][0]), module.arrays)
    latents = []
    for row, file in enumerate(files):
        pixels = torch.from_numpy(np.ascontiguousarray(read(file.path)))[None]
        found = encode_rows(module.latents.image_codec(), pixels, "train", row, sample=True, seed=first_seed).cpu()
        if not bool(found.isfinite().all()):
            raise DataError(f"the latents of {file.path} hold NaN or infinity; remove the file")
        latents.append(found)
    return torch.cat(latents)


def with_new_user(state: ModelState, user_id: int) -> ModelState:
    """Return a model with one more user, whose row of the user table is the mean of the others.

    Args:
        state: The model; its first average, or else its weights, are taken, and its optimiser is left out.
        user_id: Number of the new user.

    Raises:
        ConfigError: If the number is taken, or the model has no record of its latents.
    """
    record = state.extra.get("latents")
    if record is None:
        raise ConfigError("the model does not record the codec of its latents; train it with jitflow first")
    if user_id in record["user_ids"] or user_id < 1:
        taken = ", ".join(map(str, record["user_ids"]))
        raise ConfigError(
            f"user_id must be a number from 1 that is not taken; got {user_id}, and the users are {taken}"
        )
    larger = state.chosen(0 if state.ema1 is None else 1)
    num_users, table = len(record["user_ids"]), larger[TABLE]
    # The row of "no user" stays the last.
    larger[TABLE] = torch.cat([table[:num_users], table[:num_users].mean(0, keepdim=True), table[num_users:]])
    return dataclasses.replace(
        state,
        settings={**state.settings, "num_users": num_users + 1},
        weights=larger,
        ema1=None,
        ema2=None,
        optimizer=None,
        lightning=None,
        extra={**state.extra, "latents": {**record, "user_ids": [*record["user_ids"], user_id]}},
    )


def build_module(state: ModelState) -> UserConditionedDiT:
    """Build the module of a model state, in evaluation mode, on the CPU; its codec may be still to attach."""
    module = UserConditionedDiT(**state.settings)
    module.load_state_dict(state.weights)
    module.load_extra_state(state.extra)
    module.load_conditions(state.extra)
    return module.eval()


def new_labels(module: UserConditionedDiT, files: Sequence[UserFile]) -> Tensor:
    """Return the labels of the files of a model's last user, shape ``(N,)`` or, with conditions, ``(N, 1 + K)``.

    Args:
        module: The model with the new user.
        files: The files.
    """
    classes, table = torch.full((len(files),), module.num_classes - 1), module.conditions
    if table is None:
        return classes
    labels = with_conditions(classes, table)
    labels[:, 1:] = torch.from_numpy(label_codes(files, table))
    return labels


def adopt_combinations(module: UserConditionedDiT, labels: Tensor) -> None:
    """Add the combinations of conditions of a new user to those that a model has seen."""
    if module.combinations is not None:
        known = module.combinations
        added = Combinations.of_labels(labels, known.table).to_record()
        module.combinations = Combinations.of_record([*known.to_record(), *added], known.table)


def learn_row(
    module: UserConditionedDiT,
    latents: Tensor,
    labels: Tensor,
    *,
    num_steps: int = 400,
    learning_rate: float = 0.01,
    seed: int = 0,
    on_progress: Callable[[int, int], Any] | None = None,
) -> tuple[float, float]:
    """Learn the last user's row of the user table on its latents; every other weight stays as it is.

    Args:
        module: The model with the new user, changed in place.
        latents: Shape ``(N, Z, h, w)``, not normalised.
        labels: Their labels, see :func:`new_labels`.
        num_steps: Steps of Adam on batches of at most 32, whose row is averaged over the last half of the steps.
        learning_rate: Step size; it falls to zero as a half cosine.
        seed: Seed of batches, times and noise.
        on_progress: Called with (steps done, total).

    Returns:
        Loss before and after, at the same times and noises.
    """
    x1, labels = module.codec.encode(latents.to(module.device)), labels.to(module.device)
    weight, row = module.get_parameter(TABLE), module.num_classes - 1
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(parameter is weight)
    is_new = (torch.arange(len(weight), device=weight.device) == row)[:, None]
    optimizer = torch.optim.Adam([weight], lr=learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    total, num_averaged = torch.zeros_like(weight[row]), 0

    def loss_of(chosen: Tensor) -> Tensor:
        t = module.sample_timestep(len(chosen), device=x1.device).flatten()
        return module.flow_loss(x1[chosen], labels[chosen], t, torch.randn_like(x1[chosen])).mean()

    def measured() -> float:
        with torch.no_grad(), seeded_randomness(seed + 1):
            everything = torch.arange(len(x1)).repeat(_MEASURED)
            return float(torch.stack([loss_of(part) for part in everything.split(_LARGEST_BATCH)]).mean())

    module.eval()
    before = measured()
    with seeded_randomness(seed):
        for step in range(num_steps):
            loss = loss_of(torch.randint(len(x1), (min(_LARGEST_BATCH, 2 * len(x1)),)))
            optimizer.zero_grad()
            loss.backward()
            # Adam does not move a row without a gradient.
            weight.grad = weight.grad * is_new if weight.grad is not None else None
            optimizer.step()
            schedule.step()
            if step >= num_steps // 2:
                total, num_averaged = total + weight[row].detach(), num_averaged + 1
            if on_progress is not None:
                on_progress(step + 1, num_steps)
    with torch.no_grad():
        weight[row] = total / num_averaged
    for parameter in trained:
        parameter.requires_grad_()
    return before, measured()
