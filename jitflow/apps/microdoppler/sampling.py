"""Sampling of users: the request for spectrograms, and the samples with their documented file names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jitflow import pictures
from jitflow.apps.microdoppler.arrays.colour_maps import colour_table
from jitflow.apps.microdoppler.arrays.scale import ArrayScale
from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.apps.microdoppler.spectrogram_axes import SpectrogramAxes, draw_spectrograms
from jitflow.errors import ConfigError
from jitflow.io.files import atomic_path, write_json
from jitflow.training.asked import Asked, Labels, check_samples, num_numbers, parse_numbers, read_labels, refuse_words
from jitflow.training.asked_conditions import ANY, Conditions, ask_for_labels, read_conditions
from jitflow.training.samples import Samples

_NAME = re.compile(r"micro_doppler_(user\d+|any)_\d+\.(png|npz)")
# Pictures per row and column; more would be too small to see.
_GRID_SIDE = 8


@dataclass
class UserSamples(Samples):
    """Spectrograms of users: ``micro_doppler_user01_001.png`` and so on, a grid, and ``generation.json``.

    Attributes:
        arrays: For a model of spectrogram arrays each sample's levels in dB, shape ``(C, F, T)``, float32, saved as
            ``micro_doppler_user01_001.npz`` with its axes; its pixels are levels, grey. Empty for one of pictures.
    """

    arrays: list[np.ndarray] = field(default_factory=list)

    unit: ClassVar[str] = "pictures"
    grid_name: ClassVar[str] = "micro_doppler_grid.png"
    record_name: ClassVar[str] = "generation.json"

    def file_names(self) -> list[str]:
        """Return the file name of each picture, from its user and its number within the user, from 1."""
        counts: dict[str, int] = {}
        names = []
        for name in self.names:
            counts[name] = counts.get(name, 0) + 1
            names.append(f"micro_doppler_{name}_{counts[name]:03d}.png")
        return names

    def grid(self, *, columns: int | None = None) -> Image.Image:
        """Arrange the pictures in a grid with captions, one row per user; a large set is truncated."""
        each = next((i for i, name in enumerate(self.names) if name != self.names[0]), len(self))
        rows, rest = divmod(len(self), each)
        if (
            columns is not None
            or rest
            or any(len(set(self.names[i : i + each])) > 1 for i in range(0, len(self), each))
        ):
            return Samples.grid(replace(self, pixels=self._coloured()), columns=columns)
        shown = torch.arange(len(self)).view(rows, each)[: 2 * _GRID_SIDE, :_GRID_SIDE].flatten()
        return pictures.grid(
            self._coloured()[shown].numpy(),
            columns=min(each, _GRID_SIDE),
            scale=pictures.display_scale(self.pixels.shape[-1]),
            captions=[self.captions[i] for i in shown],
        )

    def images(self) -> list[Image.Image]:
        """Return the spectrograms as PIL images, those of arrays in their colour map."""
        return [pictures.to_image(pixels) for pixels in self._coloured().numpy()]

    def sheet(self) -> Image.Image:
        """Draw the spectrograms with their axes."""
        axes = self.settings.get("axes")
        return draw_spectrograms(self._coloured(), self.captions, None if axes is None else SpectrogramAxes(**axes))

    def save(self, folder: str | Path, *, asked: Mapping[str, Any] | None = None) -> Path:
        """Write the pictures, their grid and the record; return the folder.

        Args:
            folder: Output folder, created if missing. Pictures of an earlier call are deleted.
            asked: Settings of the call for the record.
        """
        folder, names = Path(folder), self.file_names()
        stored = [Path(name).with_suffix(".npz").name for name in names] if self.arrays else []
        for old in folder.glob("micro_doppler_*"):
            if _NAME.fullmatch(old.name) and old.name not in (*names, *stored):
                old.unlink()
        # The record is written last: its presence means that all pictures exist.
        (folder / self.record_name).unlink(missing_ok=True)
        self._save_images(folder)
        users = [_user_of(name) for name in self.names]
        listed: list[dict[str, Any]] = [
            {"file": n, "user": u, "seed": s} for n, u, s in zip(names, users, self.seeds, strict=True)
        ]
        for entry, conditions in zip(listed, self.conditions, strict=False):
            entry["conditions"] = dict(conditions)
        if self.arrays:
            scale = ArrayScale.of_record(self.settings["arrays"], source="the request")
            for name, array, entry in zip(stored, self.arrays, listed, strict=True):
                origin = {"user": np.asarray(entry["user"] or 0), "seed": np.asarray(entry["seed"])}
                with atomic_path(folder / name) as temporary, temporary.open("wb") as file:
                    np.savez_compressed(file, allow_pickle=False, **scale.file_content(array), **origin)
                entry["array"] = name
        record = {"settings": self.settings, "grid": self.grid_name, "images": listed}
        write_json(folder / self.record_name, record if asked is None else {"asked": dict(asked), **record})
        return folder

    def _coloured(self) -> Tensor:
        """Return the pixels, grey levels of arrays coloured by the data set's map, shape ``(N, 1 or 3, H, W)``."""
        if not self.arrays or self.pixels.shape[1] != 1:
            return self.pixels
        table = torch.from_numpy(colour_table(self.settings.get("arrays", {}).get("colour_map", "viridis")))
        return table[self.pixels[:, 0].long()].permute(0, 3, 1, 2)


def ask_for_users(
    module: UserConditionedDiT,
    *,
    labels: Labels | None = None,
    num: int | None = None,
    users: Labels | None = None,
    conditions: Conditions | None = None,
    **unknown: Any,
) -> Asked:
    """Build and check a request for spectrograms of users.

    Args:
        module: The model.
        labels: Labels of the network, from 0, in place of users; the number of users means "any user".
        num: Pictures of each user, one after the other; None for one.
        users: User ids, or names such as ``"user04"``; text such as ``"1,4,7-9"`` or ``"all"``; None for every user.
        conditions: Named conditions, the ``user`` among them, see
            :func:`~jitflow.training.asked_conditions.read_conditions`.
        unknown: Arguments of other applications.

    Returns:
        The request: labels, names and captions of the samples.

    Raises:
        ConfigError: If a user or argument is unknown, or the codec of the latents is missing.
    """
    refuse_words(unknown, module.application, takes=("users", "labels", "num", "conditions"))
    if labels is not None and users is not None:
        raise ConfigError("labels and users both select the users; give one of them")
    # Raises if the codec is missing, and names the file to pass.
    module.latents.image_codec()
    asked = read_conditions(conditions, module, users if labels is None else labels)
    found = ask_for_labels(
        *(module, _chosen_labels(module, labels, asked.classes or users), asked.codes, num),
        what="users" if labels is None else "labels",
        names=[*module.class_names, ANY],
        captions=[*(f"user {user}" for user in module.user_ids), "any user"],
    )
    return replace(found, record={**_record_of(module), **found.record}, unit=UserSamples.unit)


def _chosen_labels(module: UserConditionedDiT, labels: Labels | None, users: Labels | None) -> list[int]:
    """Return the label of each user of a request: given as labels, or as users; every user by default."""
    if labels is not None:
        return read_labels(labels, module)
    if users is None:
        return module.labels_of(module.user_ids).tolist()
    if not isinstance(users, str) and ANY in list(users):
        return [
            y for user in users for y in ([module.num_classes] if user == ANY else _chosen_labels(module, None, [user]))
        ]
    return module.labels_of(_read_users(users, module)).tolist()


def present_users(module: UserConditionedDiT, x: Tensor, asked: Asked, seeds: list[int]) -> UserSamples:
    """Decode latents to spectrograms; the presenter of :class:`~jitflow.training.application.Application`."""
    scale = module.arrays
    if scale is None:
        return UserSamples.of(module.codec.decode(x), asked, seeds)
    arrays = scale.arrays(module.latents.decode_float(x))
    return replace(UserSamples.of(scale.pictures(arrays), asked, seeds), arrays=list(arrays))


def _record_of(module: UserConditionedDiT) -> dict[str, Any]:
    axes = {} if module.axes is None else {"axes": module.axes}
    return axes if module.arrays is None else {**axes, "arrays": module.arrays.to_record()}


def first_users(module: UserConditionedDiT) -> str:
    """Return the ids of the first users, four at most, as text that :func:`ask_for_users` reads."""
    return ",".join(map(str, module.user_ids[:4]))


def _read_users(users: Labels, module: UserConditionedDiT) -> list[int]:
    if isinstance(users, str) and users.strip() == "all":
        return module.user_ids
    named = dict(zip(module.class_names, module.user_ids, strict=True))
    runs: list[range] = []
    for given in [users] if isinstance(users, str) else users:
        if isinstance(given, str):
            runs += parse_numbers(given, named, what="users", example="1,4,7-9")
        else:
            runs.append(range(int(given), int(given) + 1))
    # Check the ends of a range first, before a huge one is expanded.
    module.labels_of([end for run in runs if run for end in (run[0], run[-1])])
    check_samples(num_numbers(runs), "users")
    return [user for run in runs for user in run]


def _user_of(name: str) -> int | None:
    number = name.removeprefix("user")
    return int(number) if number.isdigit() else None
