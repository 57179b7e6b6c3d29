"""Work of the study's processes: train generators, and train and test classifiers, each kept once it is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from jitflow import pictures
from jitflow.apps.microdoppler.arrays.colour_maps import colour_table
from jitflow.apps.microdoppler.labelled_images import LabelledImages
from jitflow.apps.microdoppler.study.classifiers import predict_users
from jitflow.apps.microdoppler.study.data import (
    OTHERS,
    TEST,
    TRAIN,
    StudyRecord,
    read_record,
    read_spectrograms,
    write_tensors,
)
from jitflow.apps.microdoppler.study.fitted import settings_of, simulate_users
from jitflow.apps.microdoppler.study.generator import GeneratorFolder, draw_samples, share_cores, train_generator
from jitflow.apps.microdoppler.study.plan import MOST_TIMES, Arm, Cell, Replicate, draw_subset
from jitflow.apps.microdoppler.study.settings import NetworkOptions, TrainingsOptions
from jitflow.apps.microdoppler.study.sift import accepted_samples, first_of_each
from jitflow.core.seeding import mix_seeds
from jitflow.io.cores import available_cores
from jitflow.io.files import read_json, write_json
from jitflow.io.safetensors_file import read_tensors

DATA, GENERATORS, CELLS, BASE = "spectrograms", "generators", "cells", "pretraining"
GRID_NAME = "generated.png"
_GRID_COLUMNS = 8
# Separate random numbers of the same seed: pretraining, training, samples, critic, simulator and classifiers.
_BASE, _TUNE, _DRAW, _CRITIC, _FITTED, _CLASSIFY = range(1, 7)


@dataclass(frozen=True)
class Work:
    """What every process of the study must know.

    Attributes:
        folder: Folder of the study.
        network: Settings of the generators.
        trainings: Settings of the classifiers.
        seed: Seed of the study.
        num_workers: Processes that share the cores.
    """

    folder: Path
    network: NetworkOptions
    trainings: TrainingsOptions
    seed: int
    num_workers: int

    @property
    def data(self) -> Path:
        """Folder of the spectrograms."""
        return self.folder / DATA

    def generator(self, name: str) -> GeneratorFolder:
        """Folder of a generator.

        Args:
            name: Its name.
        """
        return GeneratorFolder(self.folder / GENERATORS / name)

    def cell(self, cell: Cell) -> Path:
        """File of the result of a cell."""
        return self.folder / CELLS / cell.file_name

    def subset(self, replicate: Replicate) -> LabelledImages:
        """Read the real samples of a replicate, and no others."""
        images, labels = read_spectrograms(self.data / f"{TRAIN}.safetensors")
        chosen = draw_subset(labels.numpy(), replicate.subset, replicate.seed, self.seed)
        return LabelledImages(images[chosen], labels[chosen])


def pretrain(work: Work, record: StudyRecord) -> None:
    """Pretrain a generator on the other people, or resume its training."""
    others = read_spectrograms(work.data / f"{OTHERS}.safetensors")
    train_generator(
        work.generator(BASE), others, record.others, work.network, mix_seeds(work.seed, _BASE), is_base=True
    )


def make_samples(task: tuple[Work, Replicate], tick: Callable[[], None]) -> None:
    """Train the generator of a subset, draw and sift its samples, and simulate as many for the baseline."""
    work, replicate = task
    share_cores(work.num_workers, available_cores())
    folder, record = work.generator(replicate.generator), read_record(work.data)
    real = work.subset(replicate)
    seeds = (work.seed, len(real.labels), replicate.seed)
    pretrained = work.generator(BASE) if record.others else None
    train_generator(folder, real, record.user_ids, work.network, mix_seeds(_TUNE, *seeds), base=pretrained)
    counts, channels = _counts(real, MOST_TIMES), real.images.shape[1]
    drawn = draw_samples(folder, counts, channels, work.network, mix_seeds(_DRAW, *seeds))
    _save_grid(folder.path / GRID_NAME, real, drawn)
    scale = record.array_scale
    axes = settings_of(scale)
    accepted = accepted_samples(
        drawn,
        real,
        len(record.user_ids),
        critic_seed=mix_seeds(_CRITIC, *seeds),
        trainings=work.trainings,
        settings=axes,
        span_db=scale.range_db[1] - scale.range_db[0],
    )
    tensors = {"generated": drawn.images, "labels": drawn.labels, "accepted": accepted}
    if axes is not None:
        tensors["simulated"] = simulate_users(real, counts, scale, axes, mix_seeds(_FITTED, *seeds)).images
    # The last file says that the generator is finished.
    write_tensors(samples_of(folder), tensors)
    tick()


def samples_of(folder: GeneratorFolder) -> Path:
    """File of the samples of a generator, and of the simulated ones of the same users."""
    return folder.path / "samples.safetensors"


def classify(task: tuple[Work, Replicate], tick: Callable[[], None]) -> None:
    """Train and test the classifiers of a replicate that have no result yet."""
    work, replicate = task
    share_cores(work.num_workers, available_cores())
    record, real = read_record(work.data), work.subset(replicate)
    tensors, _ = read_tensors(samples_of(work.generator(replicate.generator)))
    labels, accepted = tensors["labels"], tensors["accepted"]
    for cell in replicate.cells:
        if work.cell(cell).exists():
            continue
        pool = None if cell.arm.source == "real" else LabelledImages(tensors[cell.arm.source], labels)
        _run_cell(work, cell, join(real, pool, cell.arm, accepted), record, float(accepted.double().mean()))
        tick()


def join(real: LabelledImages, pool: LabelledImages | None, arm: Arm, accepted: torch.Tensor) -> LabelledImages:
    """Join the real samples of a subset with those that an arm adds.

    Args:
        real: Real samples.
        pool: Samples to choose from, of each user the first ones; None for an arm of real ones alone.
        arm: The arm.
        accepted: Whether sifting keeps each sample of the pool.

    Returns:
        All training samples; a sifted arm has fewer where not enough are accepted.
    """
    if pool is None:
        return real
    chosen = first_of_each(pool.labels, _counts(real, arm.times), accepted if arm.sifted else None)
    return LabelledImages(torch.cat([real.images, pool.images[chosen]]), torch.cat([real.labels, pool.labels[chosen]]))


def _run_cell(work: Work, cell: Cell, train: LabelledImages, record: StudyRecord, accepted: float) -> None:
    """Train and test one classifier and write its result."""
    started = time.process_time()
    test = read_spectrograms(work.data / f"{TEST}.safetensors")
    predicted = predict_users(
        cell.classifier,
        train,
        test.images,
        len(record.user_ids),
        seed=mix_seeds(_CLASSIFY, work.seed, cell.seed),
        num_steps=work.trainings.cnn_steps,
        classical=cell.arm.classical,
    )
    right = predicted == test.labels
    write_json(
        work.cell(cell),
        {
            "classifier": cell.classifier,
            "subset": cell.subset,
            "arm": cell.arm.name,
            "seed": cell.seed,
            "num_train": len(train.labels),
            "accuracy": float(right.double().mean()),
            "right": right.int().tolist(),
            "accepted": accepted if cell.arm.sifted else None,
            "cpu_sec": round(time.process_time() - started, 2),
        },
    )


def read_results(work: Work, replicates: list[Replicate]) -> dict[Cell, dict[str, object]]:
    """Read the scores of all cells."""
    return {cell: read_json(work.cell(cell)) for replicate in replicates for cell in replicate.cells}


def _counts(real: LabelledImages, times: float) -> list[int]:
    """Count the samples that an arm adds for each user: at least one."""
    return [max(1, round(times * int(count))) for count in torch.bincount(real.labels)]


def _save_grid(path: Path, real: LabelledImages, drawn: LabelledImages) -> None:
    """Draw a row of real and of generated spectrograms for each of the first users."""
    table = torch.from_numpy(colour_table("viridis"))
    rows = []
    for user in range(min(4, int(real.labels.max()) + 1)):
        for images, labels in (real, drawn):
            own = images[labels == user][:_GRID_COLUMNS]
            rows.append(own[torch.arange(_GRID_COLUMNS) % len(own), 0])
    coloured = table[torch.cat(rows).long()].permute(0, 3, 1, 2)
    grid: Image.Image = pictures.grid(np.asarray(coloured), columns=_GRID_COLUMNS, scale=2)
    pictures.save_image(grid, path)
