"""Stage 1 of micro-Doppler: encode the pictures of users into files of latents, once, before training."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jitflow.apps.microdoppler.arrays.colour_maps import recognise_colour_map
from jitflow.apps.microdoppler.arrays.description import DESCRIPTION_NAME
from jitflow.apps.microdoppler.arrays.measure import measure_scale
from jitflow.apps.microdoppler.arrays.scale import ArrayScale
from jitflow.apps.microdoppler.data import DONE_NAME, LINEAR_CODEC_NAME
from jitflow.apps.microdoppler.extraction_folder import (
    RECONSTRUCTION_NAME,
    STATISTICS_NAME,
    ExtractionFolder,
)
from jitflow.apps.microdoppler.latent_file import LatentInfo
from jitflow.apps.microdoppler.latent_rows import RowsTask, fill_rows
from jitflow.apps.microdoppler.latent_statistics import channel_statistics, save_statistics
from jitflow.apps.microdoppler.latent_writer import LatentWriter
from jitflow.apps.microdoppler.leakage import find_leakage, log_leakage
from jitflow.apps.microdoppler.reconstruction import save_reconstruction
from jitflow.apps.microdoppler.spectrogram_axes import find_axes
from jitflow.apps.microdoppler.user_images import (
    ImageReader,
    UserImages,
    find_user_images,
    read_user_image,
    spread_indices,
)
from jitflow.codec.latent import ImageCodec, load_image_codec
from jitflow.codec.linear import LinearCodec
from jitflow.errors import ConfigError
from jitflow.io.files import read_json, user_path
from jitflow.io.folder_lock import locked
from jitflow.io.progress import meter
from jitflow.model import default_device

log = logging.getLogger(__name__)

BUILTIN = "builtin"
RECORD_EVERY_SEC = 2.0
# Raised when the same arguments would give other latents.
_VERSION = 1
# Pictures that the built-in codec is fitted to at most; many more patches than it has numbers.
_FIT_IMAGES = 1000


def extract(
    data_dir: str | Path,
    output_path: str | Path,
    *,
    vavae_path: str | Path = BUILTIN,
    batch_size: int = 32,
    seed: int = 42,
    img_size: int = 256,
    val_fraction: float | None = None,
    num_processes: int = 1,
    device: str | None = None,
    sample: bool = True,
    overwrite: bool = False,
) -> Path:
    """Turn pictures of users into ``train.safetensors`` and ``val.safetensors``, or finish what was interrupted.

    Each file holds ``latents`` (N, Z, h, w) float32, not normalised, ``labels`` int64 from 0 and ``user_ids`` int64
    from 1, and in its metadata the mean and standard deviation of each channel over the training latents, and the
    codec. Beside them lie ``latents_stats.pt``, ``reconstruction.png`` (above: pictures, below: what their latents
    decode to), ``extraction.json`` (what was done, PSNR) and, unless an autoencoder was given,
    ``linear_codec.safetensors``. Memory does not grow with the number of pictures. A latent depends on the picture,
    its row and the seed; batch size and processes change at most its last bits.

    Args:
        data_dir: Folder of the pictures; see :func:`~jitflow.apps.microdoppler.user_images.find_user_images`.
        output_path: Folder of the results. Called again with the same inputs, it goes on or reports what is there.
        vavae_path: File of a VA-VAE, folder of a diffusers autoencoder, ``linear_codec.safetensors`` of another data
            set, or ``"builtin"`` for principal components of the training pictures.
        batch_size: Pictures at a time.
        seed: Seed of the draws from the latents' distribution, and of the split.
        img_size: Side in pixels that pictures are resized to.
        val_fraction: Share of each user's pictures held out when there is no ``val/``.
        num_processes: Processes that share the work.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; the fastest there is by default.
        sample: Draw from the latents' distribution, as the release does, or take its mean.
        overwrite: Replace results of other inputs.

    Returns:
        The folder.

    Raises:
        ConfigError: If an argument cannot work, or the folder holds results of other inputs.
        MissingFileError: If the data or the codec's file do not exist.
        CheckpointError: If the codec's file is damaged or something else.
        DataError: If the data cannot be used; the message names the file or the user.
    """
    for name, value in (("batch_size", batch_size), ("num_processes", num_processes), ("img_size", img_size)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1; got {value}")
    path = user_path(output_path)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"output_path {path} is a file; name a folder")
    codec = None if str(vavae_path) == BUILTIN else load_image_codec(vavae_path, img_size=img_size)
    if codec is None and img_size % 16:
        raise ConfigError(f"img_size {img_size} must be divisible by 16")
    device = device or default_device()
    _check_device(device)
    images = find_user_images(data_dir, val_fraction=val_fraction, seed=seed)
    draws = codec is not None and not isinstance(codec, LinearCodec)
    settings = {
        "version": _VERSION,
        "images": images.fingerprint(),
        "codec": BUILTIN if codec is None else codec.checksum,
        "img_size": img_size,
        "sample": sample if draws else None,
        "seed": seed if draws and sample else None,
    }
    folder = ExtractionFolder(path, settings)
    with locked(path):
        if folder.is_finished(overwrite=overwrite):
            log.info("already extracted: %s", _describe(read_json(path / DONE_NAME), path))
            return path
        leakage = find_leakage(images)
        log_leakage(leakage)
        folder.begin()
        chosen = [images.train[i].path for i in spread_indices(len(images.train), _FIT_IMAGES)]
        read = ImageReader(img_size, _find_scale(images, chosen))
        if codec is None:
            codec = _builtin_codec(path / LINEAR_CODEC_NAME, chosen, read)
        elif isinstance(codec, LinearCodec):
            codec.export(path / LINEAR_CODEC_NAME)
        codec.to(device)
        codec_path = path / LINEAR_CODEC_NAME if isinstance(codec, LinearCodec) else user_path(vavae_path)

        def task(split: str, start: int, stop: int) -> RowsTask:
            paths = tuple(image.path for image in images.of_split(split)[start:stop])
            return RowsTask(split, start, paths, folder.latents(split), read, codec_path, device, sample, seed)

        writer = LatentWriter.open(folder, images, codec.shape)
        fill_missing(writer, [task(*rows) for rows in writer.missing(batch_size)], codec, num_processes)
        report = _conclude(writer, images, codec, read, leakage)
    if settings["codec"] == BUILTIN:
        log.info(
            "no autoencoder was given (--vavae_path), so the built-in linear codec was used: %d principal components "
            "of 16x16 patches",
            codec.shape[0],
        )
    log.info("%s", _describe(report, path))
    return path


def fill_missing(writer: LatentWriter, tasks: list[RowsTask], codec: ImageCodec, num_processes: int) -> None:
    """Encode every picture whose latent is missing, and record now and then which rows are done.

    Args:
        writer: Writer of the latents.
        tasks: Batches of missing rows.
        codec: The image codec.
        num_processes: Processes that share the work.
    """
    total, done = writer.num_rows, writer.num_filled
    log.info("%d pictures to %s%s", total, writer.folder.path, f"; {done} are there already" if done else "")
    last = time.monotonic()
    with meter("extracting", total) as progress:
        progress.update(done)
        try:
            for task in fill_rows(tasks, codec, num_processes=num_processes):
                writer.filled[task.split][task.start : task.start + len(task.paths)] = True
                progress.update(writer.num_filled)
                if time.monotonic() - last >= RECORD_EVERY_SEC:
                    writer.record()
                    last = time.monotonic()
        finally:
            writer.record()


def _find_scale(images: UserImages, chosen: Sequence[Path]) -> ArrayScale | None:
    """Measure the scale of arrays; say of coloured pictures that their levels could be learned instead."""
    if images.arrays is not None:
        return measure_scale(chosen, images.arrays)
    name = recognise_colour_map(read_user_image(chosen[0]).transpose(1, 2, 0))
    if name not in (None, "grey"):
        log.info(
            "the pictures are coloured by %s, and their colours are learned; with a %s beside them that states "
            "colour_map and range_db, levels in dB are",
            *(name, DESCRIPTION_NAME),
        )
    return None


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {device} cannot be used here ({str(error).splitlines()[0]})") from None


def _builtin_codec(path: Path, chosen: Sequence[Path], read: ImageReader) -> LinearCodec:
    """Load the linear codec that an interrupted call fitted, or fit one to the training pictures."""
    if not path.exists():
        with meter("fitting the built-in codec", len(chosen)) as progress:

            def batches() -> Iterator[Tensor]:
                for i, image in enumerate(chosen):
                    yield read.pixels(image)
                    progress.update(i + 1)

            LinearCodec.fit(batches()).export(path)
    return LinearCodec.from_file(path)


def _conclude(
    writer: LatentWriter, images: UserImages, codec: ImageCodec, read: ImageReader, leakage: Mapping[str, Any]
) -> dict[str, Any]:
    """Finish the files with their statistics, measure what the codec loses, and write the final record."""
    folder = writer.folder
    mean, std = channel_statistics(writer.train_latents())
    scale = read.scale
    info = LatentInfo(
        *(tuple(mean.tolist()), tuple(std.tolist()), codec.id, codec.checksum, codec.img_size, folder.fingerprint),
        arrays=None if scale is None else scale.to_record(),
        conditions=writer.conditions,
        scaling=codec.scaling,
    )
    writer.finish(info.to_metadata())
    save_statistics(folder.path / STATISTICS_NAME, mean, std)
    loss = save_reconstruction(folder, images.val, codec, read)
    axes = find_axes(images.root) if scale is None else scale.axes.of_figure()
    report: dict[str, Any] = {
        "settings": folder.settings,
        "num_train": len(images.train),
        "num_val": len(images.val),
        "user_ids": list(images.user_ids),
        "latent_shape": list(codec.shape),
        "codec": {
            "id": codec.id,
            "checksum": codec.checksum,
            "img_size": list(codec.img_size),
            "scaling": dict(zip(("factor", "shift"), codec.scaling, strict=True)),
        },
        "axes": dataclasses.asdict(axes) if axes is not None else None,
        "leakage": dict(leakage),
        # JSON has no infinity; null says that nothing was lost.
        "psnr": {
            name: None if isinstance(value, float) and math.isinf(value) else value
            for name, value in dataclasses.asdict(loss).items()
        },
    }
    if scale is not None:
        low, high = scale.range_db
        # Of the peak, which is the whole range.
        error = 0.0 if math.isinf(loss.pooled_db) else (high - low) * 10 ** (-loss.pooled_db / 20)
        report |= {"arrays": scale.to_record(), "rms_error": {"value": error, "unit": scale.unit}}
    folder.conclude(report)
    return report


def _describe(report: Mapping[str, Any], folder: Path) -> str:
    """Summarise the final record in one line."""
    decibels, error = report["psnr"]["mean_db"], report.get("rms_error")
    kept = (
        "pictures come back without loss"
        if decibels is None
        else f"pictures come back with a PSNR of {decibels:.1f} dB"
    )
    kept += f", levels with an error of {error['value']:.2g} {error['unit']}" if error else ""
    return (
        f"{report['num_train']} + {report['num_val']} latents of {len(report['user_ids'])} users in {folder} by "
        f"{report['codec']['id']}; {kept} (mean of {report['psnr']['num_images']} validation images, see "
        f"{RECONSTRUCTION_NAME})"
    )
