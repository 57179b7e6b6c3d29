"""Real spectrograms of the study: what may be trained on, what is tested on, and the other people's, in three files.

Each file is read where it is needed and nowhere else: a generator never opens the one of the test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from jitflow.apps.microdoppler.arrays.description import ArrayDescription, read_description
from jitflow.apps.microdoppler.arrays.measure import measure_scale
from jitflow.apps.microdoppler.arrays.scale import ArrayScale
from jitflow.apps.microdoppler.labelled_images import LabelledImages
from jitflow.apps.microdoppler.leakage import describe_leakage, find_leakage, log_leakage
from jitflow.apps.microdoppler.manifest import find_manifest, read_manifest
from jitflow.apps.microdoppler.study.classifiers import SIDE_PX
from jitflow.apps.microdoppler.user_files import UserFile, find_files, sample_suffixes
from jitflow.apps.microdoppler.user_images import UserImage, find_user_images
from jitflow.errors import DataError
from jitflow.io.files import atomic_path, read_json, write_json
from jitflow.io.progress import meter
from jitflow.io.safetensors_file import read_tensors

TRAIN, TEST, OTHERS = "train", "test", "others"
RECORD_NAME = "data.json"


@dataclass(frozen=True)
class StudyRecord:
    """What is known of the data besides the spectrograms.

    Attributes:
        user_ids: Ids of the users, in the order of their labels.
        num_train: Training spectrograms of each user.
        num_test: Test spectrograms.
        test_groups: Session of each test spectrogram, numbered from 0; each its own where sessions are unknown.
        group: What training and test have apart, such as ``session``; empty where it is unknown.
        scale: Record of the scale of the levels, see
            :class:`~jitflow.apps.microdoppler.arrays.scale.ArrayScale`.
        leakage: Report of :func:`~jitflow.apps.microdoppler.leakage.find_leakage`.
        others: Ids of the other people.
        num_others: Their spectrograms.
        sources: Folders of the data.
        fingerprint: SHA-256 of all spectrograms and labels.
    """

    user_ids: tuple[int, ...]
    num_train: tuple[int, ...]
    num_test: int
    test_groups: tuple[int, ...]
    group: str
    scale: dict[str, Any]
    leakage: dict[str, Any]
    others: tuple[int, ...]
    num_others: int
    sources: tuple[str, ...]
    fingerprint: str

    @property
    def array_scale(self) -> ArrayScale:
        """The scale of the levels."""
        return ArrayScale.of_record(self.scale, source=RECORD_NAME)


def prepare_data(
    folder: Path, data_dir: Path | str, others_dir: Path | str | None, test_share: float | None, split_seed: int
) -> StudyRecord:
    """Read all spectrograms at 64 x 64 levels and write the files of the study.

    The range of levels is the stated one, else that of the other people, else that of the training samples: never that
    of the test.

    Args:
        folder: Folder of the files.
        data_dir: Real spectrograms, see :func:`~jitflow.apps.microdoppler.user_images.find_user_images`.
        others_dir: Spectrograms of other people; all of their files.
        test_share: Share to test on, where the data have no split.
        split_seed: Seed of that split.

    Returns:
        The record.

    Raises:
        DataError: If training and test share sessions, windows or files, or files cannot be read.
    """
    found = find_user_images(data_dir, val_fraction=test_share, seed=split_seed)
    shared = find_leakage(found)
    leaks, line = describe_leakage(shared)
    if leaks:
        raise DataError(f"{data_dir}: {line}; a study needs sides that share nothing")
    log_leakage(shared)
    others = [] if others_dir is None else _all_files(Path(others_dir))
    description = found.arrays or ArrayDescription()
    scale = measure_scale([image.path for image in others or found.train], description)
    digest = hashlib.sha256()
    with meter("reading spectrograms", len(found.train) + len(found.val) + len(others), unit="files") as progress:
        done = 0
        for name, images in ((TRAIN, found.train), (TEST, found.val), (OTHERS, others)):
            if not images:
                continue
            pixels = torch.empty(len(images), 1 if scale.num_channels == 1 else 3, SIDE_PX, SIDE_PX, dtype=torch.uint8)
            for i, image in enumerate(images):
                levels = torch.from_numpy(scale.read(image.path, SIDE_PX)[: pixels.shape[1]])
                pixels[i] = levels.round().clamp(0, 255).to(torch.uint8)
                progress.update(done := done + 1)
            labels = torch.tensor([image.label for image in images])
            write_tensors(folder / f"{name}.safetensors", {"images": pixels, "labels": labels})
            digest.update(name.encode() + pixels.numpy().tobytes() + labels.numpy().tobytes())
    record = StudyRecord(
        user_ids=found.user_ids,
        num_train=tuple(sum(image.label == label for image in found.train) for label in range(len(found.user_ids))),
        num_test=len(found.val),
        test_groups=_groups(found.val),
        group=found.group,
        scale=scale.to_record(),
        leakage=shared,
        others=tuple(sorted({image.user_id for image in others})),
        num_others=len(others),
        sources=tuple(str(path) for path in (data_dir, others_dir) if path is not None),
        fingerprint=digest.hexdigest(),
    )
    write_json(folder / RECORD_NAME, vars(record))
    return record


def read_record(folder: Path) -> StudyRecord:
    """Read the record of the data that :func:`prepare_data` wrote."""
    content: dict[str, Any] = read_json(folder / RECORD_NAME)
    plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
    return StudyRecord(**plain)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write spectrograms and what belongs to them to a safetensors file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(dict(tensors), temporary)


def read_spectrograms(path: Path) -> LabelledImages:
    """Read spectrograms and their labels, ``images`` and ``labels`` of a safetensors file."""
    tensors, _ = read_tensors(path)
    return LabelledImages(tensors["images"], tensors["labels"])


def _all_files(root: Path) -> list[UserImage]:
    """Find every spectrogram of a data set, whatever its split."""
    manifest = find_manifest(root)
    base = root if manifest is None else manifest.parent
    description = read_description(base)
    if manifest is not None:
        parts, _ = read_manifest(manifest, description or ArrayDescription())
    else:
        suffixes, _ = sample_suffixes(base, described=description is not None)
        splits = [base / name for name in ("train", "val") if (base / name).is_dir()] or [base]
        parts = {path.name: find_files(path, suffixes) for path in splits}
    files: dict[int, list[UserFile]] = {}
    for users in parts.values():
        for user_id, own in users.items():
            files.setdefault(user_id, []).extend(own)
    return [UserImage(f.path, user, label, f) for label, user in enumerate(sorted(files)) for f in files[user]]


def _groups(images: Sequence[UserImage]) -> tuple[int, ...]:
    """Number the sessions of spectrograms; each spectrogram is its own where they are unknown."""
    names = [image.origin.session or image.origin.recording or str(image.path) for image in images]
    return tuple(np.unique(names, return_inverse=True)[1].tolist())
