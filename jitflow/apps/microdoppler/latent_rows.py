"""Fill a latent file batch by batch, in one or several processes, in any order."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jitflow.apps.microdoppler.user_images import ImageReader
from jitflow.codec.latent import ImageCodec, load_image_codec
from jitflow.codec.vae import VAECodec
from jitflow.core.seeding import mix_seeds, noise_from_seeds
from jitflow.errors import DataError
from jitflow.io.array_file import ArrayFileWriter
from jitflow.io.cores import available_cores
from jitflow.io.parallel import map_processes

# Separates the random numbers of the two files.
_SPLIT_SEED = {"train": 0, "val": 1}


@dataclass(frozen=True)
class RowsTask:
    """Picklable task of a worker process: encode a batch of images into rows of a latent file.

    Attributes:
        split: ``"train"`` or ``"val"``.
        start: The first row.
        paths: Images of the rows.
        file: The unfinished file, as passed to its writer.
        read: Reader of the images.
        codec_path: File of the image codec.
        device: Device of the codec.
        sample: Draw from the latents' distribution, where the codec has one, or take its mean.
        seed: Seed of the draws; each row has its own.
    """

    split: str
    start: int
    paths: tuple[Path, ...]
    file: Path
    read: ImageReader
    codec_path: Path
    device: str
    sample: bool
    seed: int


def fill_rows(tasks: Sequence[RowsTask], codec: ImageCodec, *, num_processes: int = 1) -> Iterator[RowsTask]:
    """Encode pictures and write their latents, yielding each batch when it is in the file.

    Args:
        tasks: What to fill.
        codec: The image codec of a single process; several processes load their own.
        num_processes: Processes that share the work, each with one thread; with CUDA they take the GPUs in turn.

    Yields:
        Tasks of finished batches, in any order.

    Raises:
        DataError: If an image is damaged or its latents are not finite; the message names it.
        ConfigError: If a process was killed.
    """
    workers = min(num_processes, len(tasks))
    if workers > 1:
        yield from map_processes(_encode_in_worker, tasks, workers=workers, on_items=lambda count: None)
        return
    # Pillow releases the GIL while it decodes.
    with ThreadPoolExecutor(available_cores()) as readers:
        for task in tasks:
            yield _encode_task(task, list(readers.map(task.read, task.paths)), codec)


def encode_rows(codec: ImageCodec, pixels: Tensor, split: str, start: int, *, sample: bool, seed: int) -> Tensor:
    """Encode the images of consecutive rows as latents, each with its own random numbers.

    Args:
        codec: The image codec.
        pixels: Images, shape ``(B, 3, H, W)``, 0 to 255.
        split: ``"train"`` or ``"val"``.
        start: The first row.
        sample: Draw from the latents' distribution, where the codec has one, or take its mean.
        seed: Seed of the draws.

    Returns:
        Latents, shape ``(B, Z, h, w)``, float32, on the CPU, the same in batches of any size up to rounding.
    """
    if not isinstance(codec, VAECodec):
        return codec.encode(pixels)
    distribution = codec.encode_distribution(pixels)
    if not sample:
        return distribution.mean
    seeds = [mix_seeds(seed, _SPLIT_SEED[split], row) for row in range(start, start + len(pixels))]
    return distribution.mean + distribution.std * noise_from_seeds(codec.shape, seeds)


def _encode_task(task: RowsTask, images: list[np.ndarray], codec: ImageCodec) -> RowsTask:
    pixels = torch.from_numpy(np.stack(images))
    latents = encode_rows(codec, pixels, task.split, task.start, sample=task.sample, seed=task.seed)
    finite = latents.isfinite().flatten(1).all(1).tolist()
    if not all(finite):
        raise DataError(f"the latents of {task.paths[finite.index(False)]} hold NaN or infinity; remove the image")
    rows = ArrayFileWriter.reopen(task.file).arrays["latents"]
    rows[task.start : task.start + len(latents)] = latents.numpy()
    return task


def _encode_in_worker(task: RowsTask, tick: Callable[[], None]) -> RowsTask:
    return _encode_task(task, [task.read(path) for path in task.paths], _worker_codec(task))


def _worker_codec(task: RowsTask) -> ImageCodec:
    device = task.device
    if device == "cuda":
        device = f"cuda:{os.getpid() % torch.cuda.device_count()}"
    return _loaded(task.codec_path, task.read.img_size, device)


@functools.cache
def _loaded(path: Path, img_size: int, device: str) -> ImageCodec:
    """Load the codec of a worker process, cached, since its file does not change meanwhile."""
    torch.set_num_threads(1)
    return load_image_codec(path, img_size=img_size).to(device)
