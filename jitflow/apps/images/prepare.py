"""``jitflow data prepare``: convert a folder of images to shards; an interrupted call can be resumed."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from jitflow.apps.images.shard_record import FORMAT, MANIFEST, UNFINISHED, VERSION, ShardRecord
from jitflow.apps.images.shard_writer import (
    ShardTask,
    decoder_name,
    images_per_shard,
    shard_ranges,
    shard_tasks,
    write_shard,
)
from jitflow.data.crop import height_and_width
from jitflow.data.folder_scan import (
    ImageListing,
    check_same_classes,
    list_images,
    listing_fingerprint,
    split_folders,
)
from jitflow.errors import ConfigError, DataError
from jitflow.io.cores import available_cores
from jitflow.io.files import read_json, user_path, writable_folder, write_json
from jitflow.io.folder_lock import locked
from jitflow.io.parallel import map_processes
from jitflow.io.progress import meter

log = logging.getLogger(__name__)

_PLAN = "plan.json"


def prepare(
    folder: str | Path,
    out: str | Path,
    *,
    img_size: int | tuple[int, int] = 256,
    channels: int = 3,
    workers: int | None = None,
    skip_damaged: bool = False,
    max_skipped: int = 100,
    shard_images: int | None = None,
) -> dict[str, Any]:
    """Write the centre crops of a folder of images to shards.

    Args:
        folder: ``train/<class>/<image>`` and possibly ``val/<class>/<image>``, or ``<class>/<image>``.
        out: Folder of the shards; an interrupted preparation is resumed.
        img_size: Side of a square, or ``(height, width)``, in pixels.
        channels: 3 for colour, 1 for greyscale.
        workers: Processes; None for one on each CPU core.
        skip_damaged: Skip and record unreadable files instead of stopping at the first.
        max_skipped: Largest number of skipped files.
        shard_images: Source files in a shard; None for 4096, or fewer to stay below 512 MiB.

    Returns:
        The manifest, as written to ``out/manifest.json``.

    Raises:
        MissingFileError: If there is no such folder.
        ConfigError: If an argument is out of range, ``out`` holds something else, or the disk is too small.
        DataError: If the folder is not a data set, or a file in it cannot be read.
    """
    size = height_and_width(img_size)
    if channels not in (1, 3):
        raise ConfigError(f"channels must be 3 (colour) or 1 (greyscale); got {channels}")
    for name, value, least in (
        ("workers", workers, 1),
        ("max_skipped", max_skipped, 0),
        ("shard_images", shard_images, 1),
    ):
        if value is not None and value < least:
            raise ConfigError(f"{name} must be at least {least}; got {value}")
    folder, out = user_path(folder), user_path(out)
    splits = split_folders(folder)
    _check_target(out, splits)
    log.info("listing %s", folder)
    listings = {split: list_images(place) for split, place in splits.items()}
    if "val" in listings:
        check_same_classes(listings["train"].classes, listings["val"].classes, folder)
    per_shard = shard_images or images_per_shard(size, channels)
    plan = _plan(listings, size, channels, per_shard)
    place = writable_folder(out / UNFINISHED)
    with locked(place):
        records = _resume(out, place, plan)
        _check_room(out, listings, per_shard, records, size, channels)
        limit = max_skipped if skip_damaged else 0
        workplace = _new_workplace(place)
        missing = (
            task
            for split, listing in listings.items()
            for task in shard_tasks(
                split,
                listing,
                per_shard,
                done=list(records),
                img_size=size,
                channels=channels,
                target=out,
                workplace=workplace,
                skip_damaged=skip_damaged,
            )
        )
        num_files = sum(map(len, listings.values()))
        _write_missing(missing, num_files, records, place / "records", limit, workers or available_cores())
        manifest = _manifest(plan, listings, per_shard, records)
        manifest["source"] = str(folder.resolve())
        write_json(out / MANIFEST, manifest)
        shutil.rmtree(place)
    return manifest


def describe(folder: str | Path, *, img_size: int | tuple[int, int], channels: int) -> str:
    """Describe in one line the shards that :func:`prepare` would write.

    Args:
        folder: Folder of images.
        img_size: Side of a square, or ``(height, width)``, in pixels.
        channels: 3 for colour, 1 for greyscale.

    Returns:
        Images of each split, shards and bytes.

    Raises:
        MissingFileError: If there is no such folder.
        DataError: If it is not a data set.
    """
    height, width = height_and_width(img_size)
    counts = {split: len(list_images(place)) for split, place in split_folders(folder).items()}
    per_shard = images_per_shard(img_size, channels)
    shards = sum(len(shard_ranges(split, count, per_shard)) for split, count in counts.items())
    images = " and ".join(f"{count} {split} images" for split, count in counts.items())
    return f"{images}, {shards} shards, {sum(counts.values()) * height * width * channels / 1e9:.3g} GB,"


def _check_target(out: Path, splits: dict[str, Path]) -> None:
    for place in splits.values():
        if out.resolve() == place.resolve() or place.resolve() in out.resolve().parents:
            raise ConfigError(f"{out} lies inside {place}, where it would be a class; choose another folder")
    if out.is_dir() and not (out / MANIFEST).is_file() and not (out / UNFINISHED).is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} holds other files; choose a new or an empty folder")


def _plan(listings: dict[str, ImageListing], size: tuple[int, int], channels: int, per_shard: int) -> dict[str, Any]:
    """Return everything that determines the bytes of the shards."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "img_size": list(size),
        "channels": channels,
        "crop": "centre crop of ADM",
        "decoder": decoder_name(),
        "shard_images": per_shard,
        "classes": list(listings["train"].classes),
        "files": {
            split: {"num_files": len(listing), "names_and_sizes_sha256": listing_fingerprint(listing)}
            for split, listing in listings.items()
        },
    }


def _resume(out: Path, place: Path, plan: dict[str, Any]) -> dict[str, ShardRecord]:
    """Check the plan of an interrupted call, and return the records of its finished shards by name."""
    records: dict[str, ShardRecord] = {}
    begun = [path for path in (out / MANIFEST, place / _PLAN) if path.is_file()]
    for path in begun:
        before = read_json(path)
        differing = [key for key, value in plan.items() if before.get(key) != value]
        if differing:
            raise ConfigError(
                f"{out} was begun with another {', '.join(differing)} (see {path}); give what it was begun with, or "
                "choose another folder"
            )
        for entry in before.get("splits", {}).values():
            records |= {found["file"]: ShardRecord.from_dict(found) for found in entry["shards"]}
    write_json(place / _PLAN, plan)
    # Hidden files are skipped: a killed call may leave a partly written file with a leading dot.
    for path in sorted((place / "records").glob("[!.]*.json")):
        record = ShardRecord.from_dict(read_json(path))
        records[record.file] = record
    return {name: record for name, record in records.items() if record.lies_in(out)}


def _check_room(
    out: Path,
    listings: dict[str, ImageListing],
    per_shard: int,
    records: dict[str, ShardRecord],
    size: tuple[int, int],
    channels: int,
) -> None:
    missing = sum(
        len(places)
        for split, listing in listings.items()
        for name, places in shard_ranges(split, len(listing), per_shard)
        if name not in records
    )
    needed, free = missing * size[0] * size[1] * channels, shutil.disk_usage(out).free
    if needed > free:
        raise ConfigError(
            f"{missing} images need {needed / 1e9:.3g} GB in {out} and {free / 1e9:.3g} GB are free; free some or "
            "choose another folder"
        )


def _new_workplace(place: Path) -> Path:
    # A unique name, since a worker of a killed call may live on briefly and must not touch the new call's files.
    for old in place.glob("work-*"):
        shutil.rmtree(old, ignore_errors=True)
    workplace = place / f"work-{os.getpid()}"
    workplace.mkdir()
    return workplace


def _write_missing(
    missing: Iterator[ShardTask],
    num_files: int,
    records: dict[str, ShardRecord],
    place: Path,
    limit: int,
    workers: int,
) -> None:
    """Write the missing shards, adding to ``records``."""
    num_done = sum(record.num_images + len(record.skipped) for record in records.values())
    _check_skipped(records, limit)
    with meter("preparing", num_files) as progress:
        progress.update(num_done)
        made = map_processes(
            write_shard, missing, workers=workers, on_items=lambda count: progress.update(num_done + count)
        )
        # Closed at once after an error, so that no worker continues.
        with closing(made):
            for record in made:
                write_json(place / f"{record.file}.json", record.as_dict())
                records[record.file] = record
                _check_skipped(records, limit)


def _check_skipped(records: dict[str, ShardRecord], limit: int) -> None:
    skipped = [entry for record in records.values() for entry in record.skipped]
    if len(skipped) > limit:
        raise DataError(
            f"{len(skipped)} files cannot be read, such as {skipped[0]['file']}, and at most {limit} may be skipped; "
            "repair them, or pass --on_error skip with a larger --max_skipped"
        )


def _manifest(
    plan: dict[str, Any], listings: dict[str, ImageListing], per_shard: int, records: dict[str, ShardRecord]
) -> dict[str, Any]:
    splits = {}
    for split, listing in listings.items():
        shards = [records[name] for name, _ in shard_ranges(split, len(listing), per_shard)]
        skipped = [entry for record in shards for entry in record.skipped]
        counts = listing.class_counts()
        for entry in skipped:
            counts[entry["label"]] -= 1
        empty = [name for name, count in zip(listing.classes, counts, strict=True) if not count]
        if empty:
            raise DataError(f"no readable image is left in {listing.folder} for the class {', '.join(empty[:5])}")
        splits[split] = {
            "num_images": sum(record.num_images for record in shards),
            "num_skipped": len(skipped),
            "class_counts": counts.tolist(),
            "shards": [record.as_dict() for record in shards],
        }
    return {**plan, "splits": splits}
