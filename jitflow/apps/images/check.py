"""``jitflow data check``: inspect every image file of a data set and report findings."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFile, ImageOps

from jitflow.apps.images.image_check import (
    CheckTask,
    Finding,
    ImageFacts,
    collect_findings,
    inspect_files,
)
from jitflow.apps.images.numeric_order import log_numeric_order
from jitflow.apps.images.shard_record import verify_shard
from jitflow.apps.images.shards import open_shard_folder
from jitflow.data.folder_scan import ImageListing, list_images, split_folders, unused_folders
from jitflow.data.image_file import UNREADABLE, decoder_of, to_mode
from jitflow.errors import ConfigError
from jitflow.io.cores import available_cores
from jitflow.io.files import user_path, writable_folder, write_json
from jitflow.io.parallel import map_processes
from jitflow.io.progress import meter
from jitflow.pictures import grid, save_image

FILES_IN_TASK = 128
"""Image files that a process checks between two reports of its progress."""
_WITHOUT_IMAGES = ("left_out", "unused_folder", "unused_type")
_SHEET_COLUMNS, _SHEET_ROWS = 8, 6
_THUMB_PX, _CAPTION_PX = 128, 26


def check_folder(
    folder: str | Path,
    out: str | Path,
    *,
    workers: int | None = None,
    min_side_px: int = 64,
    min_class_images: int = 10,
    max_pixels: int = 89_478_485,
) -> tuple[dict[str, Any], list[Finding]]:
    """Inspect every image file of a data set.

    Args:
        folder: ``train/<class>/<image>`` and possibly ``val/<class>/<image>``, or ``<class>/<image>``.
        out: Folder for ``check.json`` and one contact sheet, ``<finding>.png``, for each finding.
        workers: Processes; None for one on each CPU core.
        min_side_px: Files with a shorter side are ``tiny``.
        min_class_images: Training classes with fewer images are ``small_class``.
        max_pixels: Files with more are ``bomb`` and not decoded; by default Pillow's warning limit.

    Returns:
        The report as written to ``check.json``, and the findings.

    Raises:
        MissingFileError: If there is no such folder.
        DataError: If it is not laid out as a data set.
        ConfigError: If an argument is out of range.
    """
    for name, value, least in (
        ("workers", workers, 1),
        ("min_side_px", min_side_px, 0),
        ("min_class_images", min_class_images, 0),
        ("max_pixels", max_pixels, 1),
    ):
        if value is not None and value < least:
            raise ConfigError(f"{name} must be at least {least}; got {value}")
    root = user_path(folder)
    folders = split_folders(root)
    out = writable_folder(out)
    listings = {split: list_images(split_folder, allow_empty=True) for split, split_folder in folders.items()}
    prefixes = {
        split: "" if split_folder == root else f"{split_folder.name}/" for split, split_folder in folders.items()
    }
    facts: dict[str, list[ImageFacts]] = {
        split: [ImageFacts((), None)] * len(listing) for split, listing in listings.items()
    }
    with meter("checking", sum(map(len, listings.values()))) as progress:
        seen = map_processes(
            inspect_files,
            _tasks(listings, min_side_px, max_pixels),
            workers=workers or available_cores(),
            on_items=progress.update,
        )
        for split, start, found in seen:
            facts[split][start : start + len(found)] = found
    log_numeric_order(listings["train"].classes)
    findings = collect_findings(
        listings, dict(facts), unused_folders(root), min_class_images=min_class_images, prefixes=prefixes
    )
    report = {
        "folder": str(root.resolve()),
        "num_images": {split: len(listing) for split, listing in listings.items()},
        "num_classes": {split: len(listing.classes) for split, listing in listings.items()},
        "findings": [
            {
                "kind": finding.kind,
                "severity": finding.severity,
                "meaning": finding.meaning,
                "count": len(finding.files),
                "files": [asdict(found) for found in finding.files],
            }
            for finding in findings
        ],
    }
    write_json(out / "check.json", report)
    for finding in findings:
        sheet = contact_sheet(root, finding, listings, prefixes)
        if sheet is not None:
            save_image(sheet, out / f"{finding.kind}.png")
    return report, findings


def check_shards(
    folder: str | Path, out: str | Path, *, workers: int | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Verify the checksum of every shard of a prepared folder.

    Args:
        folder: The prepared folder.
        out: Folder for ``check.json``.
        workers: Processes; None for one on each CPU core.

    Returns:
        The report as written to ``check.json``, and one line for each damaged shard.

    Raises:
        DataError: If the manifest is damaged, or a shard is missing or has another size.
    """
    shards = open_shard_folder(folder)
    out = writable_folder(out)
    records = [record for split in shards.splits.values() for record in split]
    with meter("checking", len(records), unit="shards") as progress:
        found = map_processes(
            functools.partial(verify_shard, shards.folder),
            iter(records),
            workers=workers or available_cores(),
            on_items=progress.update,
        )
        problems = sorted(problem for problem in found if problem is not None)
    report = {
        "folder": str(shards.folder.resolve()),
        "num_images": {
            split: sum(r.num_images for r in split_records) for split, split_records in shards.splits.items()
        },
        "num_classes": len(shards.classes),
        "num_shards": len(records),
        "skipped_when_prepared": [{**entry} for record in records for entry in record.skipped],
        "damaged": problems,
    }
    write_json(out / "check.json", report)
    return report, problems


def contact_sheet(
    root: Path, finding: Finding, listings: dict[str, ImageListing], prefixes: dict[str, str]
) -> Image.Image | None:
    """Draw a contact sheet of a finding's first images, each with its name; duplicates in pairs.

    Args:
        root: The data set.
        finding: The finding.
        listings: The files of each split; for a class, its first image is shown.
        prefixes: Path prefix of the files of each split in the finding.

    Returns:
        The contact sheet, RGB; None if there is no file to show.
    """
    tiles = []
    for found in finding.files[: _SHEET_COLUMNS * _SHEET_ROWS]:
        if finding.kind in _WITHOUT_IMAGES:
            continue
        files = [found.file, found.twin] if found.twin else [found.file]
        if "class" in finding.kind:
            files = _first_of_class(found.file, listings, prefixes)
        tiles += [_tile(root / file, found.seen, decode=finding.kind != "bomb") for file in files]
    tiles = tiles[: _SHEET_COLUMNS * _SHEET_ROWS]
    return grid(np.stack(tiles), columns=_SHEET_COLUMNS, background=128) if tiles else None


def _first_of_class(name: str, listings: dict[str, ImageListing], prefixes: dict[str, str]) -> list[str]:
    for split, listing in listings.items():
        for file in listing.files:
            if f"{prefixes[split]}{file}".startswith(f"{name}/"):
                return [prefixes[split] + file]
    return []


def _tile(path: Path, seen: str, *, decode: bool) -> np.ndarray:
    """Draw a thumbnail with two lines of text, shape ``(3, H, W)``, uint8; grey if the image cannot be decoded."""
    tile = Image.new("RGB", (_THUMB_PX, _THUMB_PX + _CAPTION_PX), "white")
    thumb = _thumb(path) if decode else None
    tile.paste(thumb or Image.new("RGB", (_THUMB_PX, _THUMB_PX), (90, 90, 90)), (0, 0))
    draw = ImageDraw.Draw(tile)
    for line, text in enumerate((path.name[-20:], seen[:20])):
        # Pillow's built-in font has no other characters.
        draw.text((2, _THUMB_PX + 1 + 12 * line), text.encode("ascii", "replace").decode(), fill="black")
    return np.asarray(tile).transpose(2, 0, 1)


def _thumb(path: Path) -> Image.Image | None:
    """Return the thumbnail of an image file, as far as it can be decoded."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        with decoder_of(path) as image:
            return ImageOps.pad(to_mode(image, "RGB"), (_THUMB_PX, _THUMB_PX), color="white")
    except (*UNREADABLE, MemoryError):
        return None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _tasks(listings: dict[str, ImageListing], min_side_px: int, max_pixels: int) -> Iterator[CheckTask]:
    for split, listing in listings.items():
        for start in range(0, len(listing), FILES_IN_TASK):
            files = tuple(listing.files[start : start + FILES_IN_TASK])
            yield CheckTask(split, listing.folder, start, files, min_side_px, max_pixels)
