"""Leakage report: what the training and the validation files of a data set of spectrograms share, and should not."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jitflow.apps.microdoppler.user_images import UserImage, UserImages
from jitflow.apps.microdoppler.user_split import linked_files
from jitflow.io.progress import meter

log = logging.getLogger(__name__)

_SHOWN = 5
_READ_BYTES = 1 << 20


def find_leakage(images: UserImages) -> dict[str, Any]:
    """Look for what training and validation of a data set share: sessions, recordings, windows, and equal files.

    Args:
        images: The data set; files of equal size on both sides are read.

    Returns:
        Plain values: ``group`` (what is kept apart, such as ``session``; empty if the data do not say), ``num_groups``
        (of training and validation), ``shared_groups`` (some of those on both sides), ``num_shared_groups``,
        ``num_windows`` (validation files that overlap a training file of their recording, or may), and
        ``num_equal_files`` (validation files that are also training files).
    """
    sides = {split: {image.origin.session for image in images.of_split(split)} - {""} for split in ("train", "val")}
    if images.group == "recording" and not any(sides.values()):
        sides = {split: {image.origin.recording for image in images.of_split(split)} - {""} for split in sides}
    shared = sorted(sides["train"] & sides["val"]) if images.group else []
    return {
        "group": images.group,
        "num_groups": [len(sides["train"]), len(sides["val"])] if images.group else [0, 0],
        "num_shared_groups": len(shared),
        "shared_groups": shared[:_SHOWN],
        "num_windows": _count_shared_windows(images),
        "num_equal_files": _count_equal_files(images.train, images.val),
    }


def describe_leakage(report: Mapping[str, Any]) -> tuple[bool, str]:
    """Summarise a leakage report of the training and validation files in one line.

    Args:
        report: As :func:`find_leakage` returned it.

    Returns:
        Whether something leaks, and the line.
    """
    group, (train, val) = report["group"], report["num_groups"]
    problems = []
    if report["num_shared_groups"]:
        some = ", ".join(report["shared_groups"])
        problems.append(f"{report['num_shared_groups']} of {val} {group}s of validation are also trained on ({some})")
    if report["num_windows"]:
        problems.append(f"{report['num_windows']} validation files share a stretch of a recording with training")
    if report["num_equal_files"]:
        problems.append(f"{report['num_equal_files']} validation files are also training files")
    if problems:
        remedy = f"scores on this validation set are too good; split by {group or 'session'}"
        return True, f"leakage: {'; '.join(problems)}; {remedy}"
    if group:
        return False, f"leakage: none found; {train} {group}s to train on, {val} others to validate on"
    return False, (
        "leakage: no equal files; sessions and recordings are not known (no manifest with these columns, nor such "
        "names), so windows of one recording may be on both sides"
    )


def log_leakage(report: Mapping[str, Any]) -> bool:
    """Log a leakage report of the training and validation files, as a warning if something leaks; return whether."""
    leaks, line = describe_leakage(report)
    log.log(logging.WARNING if leaks else logging.INFO, "%s", line)
    return leaks


def _count_shared_windows(images: UserImages) -> int:
    """Count validation files that lie in a stretch of a recording which training has too."""
    both = [*images.train, *images.val]
    groups = linked_files([(image.user_id, image.origin) for image in both], by_session=False)
    num_train = len(images.train)
    return sum(sum(i >= num_train for i in indices) for indices in groups if min(indices) < num_train <= max(indices))


def _count_equal_files(train: Sequence[UserImage], val: Sequence[UserImage]) -> int:
    by_size: dict[int, list[Path]] = defaultdict(list)
    for image in train:
        by_size[image.path.stat().st_size].append(image.path)
    alike = [(image.path, image.path.stat().st_size) for image in val]
    alike = [(path, size) for path, size in alike if size in by_size]
    sizes = {size for _, size in alike}
    total = sum(len(by_size[size]) for size in sizes) + len(alike)
    known: dict[int, set[bytes]] = {size: set() for size in sizes}
    count = done = 0
    with meter("comparing files of training and validation", total, unit="files") as progress:
        for size in sizes:
            for path in by_size[size]:
                known[size].add(_digest(path))
                progress.update(done := done + 1)
        for path, size in alike:
            count += _digest(path) in known[size]
            progress.update(done := done + 1)
    return count


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.digest()
