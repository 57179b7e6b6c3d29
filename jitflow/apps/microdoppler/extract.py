"""Stage 1 of micro-Doppler: pictures of users become files of latents, once, before training."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jitflow.apps.microdoppler.data import LINEAR_CODEC_NAME, LatentInfo
from jitflow.apps.microdoppler.latent_rows import RowsTask, fill_rows
from jitflow.apps.microdoppler.user_images import UserImage, UserImages, find_user_images, read_user_image
from jitflow.codec.latent import ImageCodec, load_image_codec
from jitflow.codec.linear import LinearCodec, Psnr, psnr
from jitflow.errors import ConfigError, DataError
from jitflow.io.array_file import ArrayFileWriter, open_arrays, part_path
from jitflow.io.files import atomic_path, read_json, writable_folder, write_json
from jitflow.io.progress import meter
from jitflow.model import default_device
from jitflow.pictures import grid, save_image

log = logging.getLogger(__name__)

BUILTIN = "builtin"
DONE_NAME = "extraction.json"
STATISTICS_NAME = "latents_stats.pt"
RECONSTRUCTION_NAME = "reconstruction.png"
_PROGRESS_NAME = "extraction.progress.json"
_SPLITS = ("train", "val")
# Raised when the same arguments would give other latents.
_VERSION = 1
# Pictures that the built-in codec is fitted to at most; many more patches than it has numbers.
_FIT_IMAGES = 1000
# Pictures that are decoded again to see what is lost, and how many of them are shown.
_CHECKED_IMAGES, _SHOWN_IMAGES = 64, 8
_RECORD_EVERY_SEC = 2.0
_BLOCK_ROWS = 256


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
        vavae_path: File of a VA-VAE, ``linear_codec.safetensors`` of another data set, or ``"builtin"`` for principal
            components of the training pictures.
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
    folder = Path(output_path).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output_path {folder} is a file; name a folder")
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
    if _is_finished(folder, settings, overwrite=overwrite):
        log.info("already extracted: %s", _describe(read_json(folder / DONE_NAME), folder))
        return folder
    writable_folder(folder)
    # Before any other file, so that whatever stops this, the next call knows whose files these are.
    _record(folder, settings, {})
    if codec is None:
        codec = _builtin_codec(folder, images, img_size)
    elif isinstance(codec, LinearCodec):
        codec.export(folder / LINEAR_CODEC_NAME)
    codec.to(device)
    codec_path = folder / LINEAR_CODEC_NAME if isinstance(codec, LinearCodec) else Path(vavae_path).expanduser()

    def task(split: str, start: int, stop: int) -> RowsTask:
        paths = tuple(image.path for image in _split(images, split)[start:stop])
        return RowsTask(split, start, paths, _file(folder, split), img_size, codec_path, device, sample, seed)

    writers, filled = _open_writers(folder, images, codec)
    tasks = [task(*rows) for rows in _missing(filled, batch_size)]
    _fill(folder, settings, tasks, writers, filled, codec, num_processes=num_processes)
    return _conclude(folder, settings, images, writers, codec)


def _is_finished(folder: Path, settings: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Whether everything is there; make room if not, and refuse to mix results of different inputs."""
    done, progress = folder / DONE_NAME, folder / _PROGRESS_NAME
    record = done if done.exists() else progress
    if overwrite:
        _remove_all(folder)
    elif record.exists():
        there = read_json(record)
        old = there.get("settings", {}) if isinstance(there, dict) else {}
        differing = [name for name in settings if old.get(name, "") != settings[name]]
        if differing:
            raise ConfigError(
                f"{folder} holds latents of other inputs ({', '.join(differing)}); name another folder or pass "
                "--overwrite"
            )
        if record == done and all(_file(folder, split).exists() for split in _SPLITS):
            return True
        if record == done:
            _remove_all(folder)
    else:
        strangers = [path.name for path in _own_files(folder) if path.exists()]
        if strangers:
            raise ConfigError(
                f"{folder} holds {', '.join(strangers)} that this command did not make; name another folder or pass "
                "--overwrite"
            )
    return False


def _builtin_codec(folder: Path, images: UserImages, img_size: int) -> LinearCodec:
    """The codec that an interrupted call fitted, or a new one."""
    path = folder / LINEAR_CODEC_NAME
    if not path.exists():
        chosen = [images.train[i] for i in _spread(len(images.train), _FIT_IMAGES)]
        with meter("fitting the built-in codec", len(chosen)) as progress:

            def batches() -> Iterator[Tensor]:
                for i, image in enumerate(chosen):
                    yield _read([image], img_size)
                    progress.update(i + 1)

            LinearCodec.fit(batches()).export(path)
    return LinearCodec.from_file(path)


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {device} cannot be used here ({str(error).splitlines()[0]})") from None


def _open_writers(
    folder: Path, images: UserImages, codec: ImageCodec
) -> tuple[dict[str, ArrayFileWriter], dict[str, np.ndarray]]:
    """The files that are not finished yet, and which of the rows of all files are there, shape ``(N,)``, bool."""
    recorded = read_json(folder / _PROGRESS_NAME).get("done", {}) if (folder / _PROGRESS_NAME).exists() else {}
    writers: dict[str, ArrayFileWriter] = {}
    filled: dict[str, np.ndarray] = {}
    for split in _SPLITS:
        path, pictures = _file(folder, split), _split(images, split)
        filled[split] = np.full(len(pictures), path.exists())
        if path.exists():
            continue
        arrays = {
            "latents": ((len(pictures), *codec.shape), "float32"),
            "labels": ((len(pictures),), "int64"),
            "user_ids": ((len(pictures),), "int64"),
        }
        if part_path(path).exists() and split in recorded:
            writers[split] = ArrayFileWriter.reopen(path, arrays)
            for start, stop in recorded[split]:
                filled[split][start:stop] = True
        else:
            writers[split] = ArrayFileWriter.create(path, arrays)
            writers[split].arrays["labels"][:] = [image.label for image in pictures]
            writers[split].arrays["user_ids"][:] = [image.user_id for image in pictures]
    return writers, filled


def _fill(
    folder: Path,
    settings: Mapping[str, Any],
    tasks: list[RowsTask],
    writers: Mapping[str, ArrayFileWriter],
    filled: Mapping[str, np.ndarray],
    codec: ImageCodec,
    *,
    num_processes: int,
) -> None:
    """Encode every row that is not in the files yet, keeping a record of those that are."""
    total, done = sum(map(len, filled.values())), sum(int(rows.sum()) for rows in filled.values())
    log.info("%d pictures to %s%s", total, folder, f"; {done} are there already" if done else "")

    def record() -> None:
        # Rows first: what the record says is on the disk, even if the machine stops now.
        for writer in writers.values():
            writer.flush()
        _record(folder, settings, filled)

    last = time.monotonic()
    with meter("extracting", total) as progress:
        progress.update(done)
        try:
            for task in fill_rows(tasks, codec, num_processes=num_processes):
                filled[task.split][task.start : task.start + len(task.paths)] = True
                progress.update(sum(int(rows.sum()) for rows in filled.values()))
                if time.monotonic() - last >= _RECORD_EVERY_SEC:
                    record()
                    last = time.monotonic()
        finally:
            record()


def _missing(filled: Mapping[str, np.ndarray], batch_size: int) -> Iterator[tuple[str, int, int]]:
    """Batches at fixed places that have a row to fill, so that a row is always encoded among the same neighbours."""
    for split, rows in filled.items():
        for start in range(0, len(rows), batch_size):
            if not rows[start : start + batch_size].all():
                yield split, start, min(start + batch_size, len(rows))


def _record(folder: Path, settings: Mapping[str, Any], filled: Mapping[str, np.ndarray]) -> None:
    done = {split: _intervals(rows) for split, rows in filled.items()}
    path = folder / _PROGRESS_NAME
    if done or not path.exists():
        write_json(path, {"settings": settings, "done": done})


def _intervals(rows: np.ndarray) -> list[list[int]]:
    """Runs of true values, as (first, after the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], rows, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2).tolist()


def _conclude(
    folder: Path,
    settings: Mapping[str, Any],
    images: UserImages,
    writers: Mapping[str, ArrayFileWriter],
    codec: ImageCodec,
) -> Path:
    """Give the files their names, statistics and an account of what the codec loses."""
    train = writers["train"].arrays if "train" in writers else open_arrays(_file(folder, "train"))[0]
    mean, std = channel_statistics(train["latents"])
    info = LatentInfo(
        tuple(mean.tolist()),
        tuple(std.tolist()),
        codec.id,
        codec.checksum,
        codec.img_size,
        hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
    )
    for writer in writers.values():
        writer.finish(info.to_metadata())
    statistics = {
        name: torch.from_numpy(values).float().reshape(1, -1, 1, 1) for name, values in (("mean", mean), ("std", std))
    }
    # Given a name, torch would write it into the file, and this one is random.
    with atomic_path(folder / STATISTICS_NAME) as temporary, temporary.open("wb") as file:
        torch.save(statistics, file)
    kept = _show_reconstruction(folder, images.val, codec)
    report = {
        "settings": settings,
        "num_train": len(images.train),
        "num_val": len(images.val),
        "user_ids": list(images.user_ids),
        "latent_shape": list(codec.shape),
        "codec": {"id": codec.id, "checksum": codec.checksum, "img_size": list(codec.img_size)},
        # JSON has no infinity; null says that nothing was lost.
        "psnr": {
            name: None if isinstance(value, float) and math.isinf(value) else value
            for name, value in dataclasses.asdict(kept).items()
        },
    }
    write_json(folder / DONE_NAME, report)
    (folder / _PROGRESS_NAME).unlink(missing_ok=True)
    if settings["codec"] == BUILTIN:
        log.info(
            "no autoencoder was given (--vavae_path), so the built-in linear codec was used: %d principal components "
            "of 16x16 patches",
            codec.shape[0],
        )
    log.info("%s", _describe(report, folder))
    return folder


def channel_statistics(latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, read in pieces.

    Args:
        latents: Shape ``(N, Z, h, w)``, possibly mapped from a file.

    Returns:
        Mean and deviation (divisor count - 1, as the release has it), shape ``(Z,)``, float64.

    Raises:
        DataError: If a channel does not vary.
    """
    count = latents.size // latents.shape[1]
    blocks = range(0, len(latents), _BLOCK_ROWS)
    total = sum(latents[i : i + _BLOCK_ROWS].sum(axis=(0, 2, 3), dtype=np.float64) for i in blocks)
    mean = np.asarray(total / count)
    centre = mean[:, None, None]
    squares = sum(np.square(latents[i : i + _BLOCK_ROWS] - centre).sum(axis=(0, 2, 3)) for i in blocks)
    std = np.sqrt(np.asarray(squares) / max(1, count - 1))
    if not (std > 0).all():
        raise DataError(f"latent channel {int(np.argmin(std))} is the same in all training images; are they all alike?")
    return mean, std


def _show_reconstruction(folder: Path, images: tuple[UserImage, ...], codec: ImageCodec) -> Psnr:
    """Decode some of the validation latents, draw them below their pictures and compare."""
    latents = open_arrays(_file(folder, "val"))[0]["latents"]
    rows = _spread(len(images), _CHECKED_IMAGES)
    pixels, decoded = [], []
    with meter("decoding validation latents", len(rows)) as progress:
        for i, row in enumerate(rows):
            pixels.append(_read([images[row]], codec.img_size))
            decoded.append(codec.decode(torch.from_numpy(latents[row : row + 1].copy())))
            progress.update(i + 1)
    originals, reconstructions = torch.cat(pixels), torch.cat(decoded)
    shown = _spread(len(rows), _SHOWN_IMAGES)
    pairs = torch.cat([originals[shown], reconstructions[shown]])
    save_image(grid(pairs.numpy(), columns=len(shown), gap_px=4), folder / RECONSTRUCTION_NAME)
    return psnr(originals, reconstructions)


def _describe(report: Mapping[str, Any], folder: Path) -> str:
    decibels = report["psnr"]["mean_db"]
    kept = (
        "pictures come back without loss"
        if decibels is None
        else f"pictures come back with a PSNR of {decibels:.1f} dB"
    )
    return (
        f"{report['num_train']} + {report['num_val']} latents of {len(report['user_ids'])} users in {folder} by "
        f"{report['codec']['id']}; {kept} (mean of {report['psnr']['num_images']} validation images, see "
        f"{RECONSTRUCTION_NAME})"
    )


def _read(images: list[UserImage], img_size: int | tuple[int, int]) -> Tensor:
    return torch.from_numpy(np.stack([read_user_image(image.path, img_size) for image in images]))


def _spread(num: int, most: int) -> list[int]:
    """At most so many of ``range(num)``, evenly spread from the first to the last."""
    return sorted({round(place) for place in np.linspace(0, num - 1, min(num, most)).tolist()})


def _split(images: UserImages, split: str) -> tuple[UserImage, ...]:
    return images.train if split == "train" else images.val


def _file(folder: Path, split: str) -> Path:
    return folder / f"{split}.safetensors"


def _own_files(folder: Path) -> list[Path]:
    files = [_file(folder, split) for split in _SPLITS]
    names = (STATISTICS_NAME, LINEAR_CODEC_NAME, RECONSTRUCTION_NAME)
    return [*files, *map(part_path, files), *(folder / name for name in names)]


def _remove_all(folder: Path) -> None:
    # The records last, for the same reason.
    for path in (*_own_files(folder), folder / DONE_NAME, folder / _PROGRESS_NAME):
        path.unlink(missing_ok=True)
