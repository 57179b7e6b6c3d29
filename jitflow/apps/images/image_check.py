"""Checks of image files in a data set: each file by itself, and files compared with each other."""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Literal

from PIL import Image

from jitflow.data.folder_scan import ImageListing
from jitflow.data.image_file import UNREADABLE, PixelRangeError, decoder_of, reading_error, to_mode

Severity = Literal["error", "warning"]

KINDS: dict[str, tuple[Severity, str]] = {
    "corrupt": ("error", "cannot be decoded; training stops there"),
    "truncated": ("error", "ends too early; training stops there"),
    "bomb": ("error", "has more pixels than Pillow takes for harmless, and was not decoded"),
    "leak": ("error", "is in train/ and in val/ with the same pixels, which makes validation too good"),
    "empty_class": ("error", "is a class without images"),
    "other_classes": ("error", "is a class of only one of train/ and val/, which shifts the labels"),
    "duplicate": ("warning", "has the pixels of another file of the same split"),
    "tiny": ("warning", "has a side below the limit and would be blown up"),
    "cmyk": ("warning", "holds printing colours, whose conversion to RGB is a guess"),
    "sixteen_bit": ("warning", "has more than eight bits a channel, which are rounded"),
    "palette": ("warning", "has a colour table, often a drawing or a reduced picture"),
    "transparent": ("warning", "has transparent parts, whose hidden colours become visible"),
    "rotated": ("warning", "is stored turned, with an EXIF note that training does not read"),
    "small_class": ("warning", "is a class with few images"),
    "left_out": ("warning", "is hidden or made by a system, and none of the data"),
    "unused_folder": ("warning", "lies beside train/ and is not read; validation images belong into val/"),
    "unused_type": ("warning", "is of a type that is not read, perhaps with others"),
    "floating_point": ("error", "holds floating-point pixels, whose range nobody knows; training stops there"),
}
"""Severity and meaning of every kind of finding, phrased for one file or class."""

_ORIENTATION = 0x0112
_TRUNCATION_MESSAGES = ("truncated", "unexpected end", "too short", "end of file")


@dataclass(frozen=True)
class CheckTask:
    """Task of a worker: image files of one split to inspect.

    Args:
        split: ``train`` or ``val``.
        folder: Folder of the files.
        start: Index of the first file in the split's listing.
        files: Their paths below the folder.
        min_side_px: Files with a shorter side are ``tiny``.
        max_pixels: Files with more are ``bomb``.
    """

    split: str
    folder: Path
    start: int
    files: tuple[str, ...]
    min_side_px: int
    max_pixels: int


@dataclass(frozen=True)
class ImageFacts:
    """Findings and pixel hash of an image file.

    Args:
        findings: Pairs of a kind of finding and its detail, such as ``("tiny", "12 x 30 px")``.
        digest: Hash of size and colours, equal for files that are identical in training; None if unreadable.
    """

    findings: tuple[tuple[str, str], ...]
    digest: bytes | None


@dataclass(frozen=True)
class Found:
    """File or class of a finding.

    Args:
        file: Its path below the data set.
        seen: Detail, in a few words.
        twin: Path of the file with the same pixels; empty for other findings.
    """

    file: str
    seen: str
    twin: str = ""


@dataclass
class Finding:
    """All image files or classes with the same problem.

    Args:
        kind: One of :data:`KINDS`.
        files: The files or classes.
    """

    kind: str
    files: list[Found] = field(default_factory=list)

    @property
    def severity(self) -> Severity:
        """Severity of the finding."""
        return KINDS[self.kind][0]

    @property
    def meaning(self) -> str:
        """Meaning of the finding, phrased for one file."""
        return KINDS[self.kind][1]


def inspect_files(task: CheckTask, on_image: Callable[[], None]) -> tuple[str, int, list[ImageFacts]]:
    """Inspect the image files of a task.

    Args:
        task: The task.
        on_image: Called after each file.

    Returns:
        The task's split and start, and the facts of each file.
    """
    facts = []
    for file in task.files:
        path = task.folder / file
        facts.append(inspect_image(path, min_side_px=task.min_side_px, max_pixels=task.max_pixels))
        on_image()
    return task.split, task.start, facts


def inspect_image(path: Path, *, min_side_px: int = 64, max_pixels: int = 89_478_485) -> ImageFacts:
    """Inspect an image file: its header first, then all of its pixels.

    Args:
        path: The file.
        min_side_px: Files with a shorter side are ``tiny``.
        max_pixels: Files with more are ``bomb`` and not decoded.

    Returns:
        The facts.
    """
    try:
        # Pillow warns of large images on opening; here that is a finding.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with decoder_of(path) as image:
                width, height = image.size
                size = f"{width} x {height} px"
                if width * height > max_pixels:
                    return ImageFacts((("bomb", size),), None)
                findings = _odd_modes(image)
                if min(width, height) < min_side_px:
                    findings.append(("tiny", size))
                colours = to_mode(image, "RGB")
    except Image.DecompressionBombError as error:
        return ImageFacts((("bomb", str(error)),), None)
    except (*UNREADABLE, MemoryError) as error:
        return ImageFacts((_damage(path, error),), None)
    digest = hashlib.blake2b(colours.tobytes(), digest_size=16, salt=f"{width}x{height}".encode()[:16]).digest()
    return ImageFacts(tuple(findings), digest)


def _odd_modes(image: Image.Image) -> list[tuple[str, str]]:
    mode = f"mode {image.mode}"
    found = []
    if image.mode in ("CMYK", "YCCK"):
        found.append(("cmyk", mode))
    if image.mode.startswith("I"):
        found.append(("sixteen_bit", mode))
    if image.mode in ("P", "PA"):
        found.append(("palette", mode))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        found.append(("transparent", mode))
    turned = image.getexif().get(_ORIENTATION, 1)
    if turned not in (0, 1):
        found.append(("rotated", f"EXIF orientation {turned}"))
    return found


def _damage(path: Path, error: BaseException) -> tuple[str, str]:
    if path.is_file() and path.stat().st_size == 0:
        return "truncated", "empty file"
    text = reading_error(error) or type(error).__name__
    if isinstance(error, PixelRangeError):
        return "floating_point", text
    cut = isinstance(error, EOFError) or any(message in text.lower() for message in _TRUNCATION_MESSAGES)
    return ("truncated" if cut else "corrupt"), text


def collect_findings(
    listings: dict[str, ImageListing],
    facts: dict[str, Sequence[ImageFacts]],
    unused: Sequence[str] = (),
    *,
    min_class_images: int,
    prefixes: dict[str, str],
) -> list[Finding]:
    """Collect the findings of all image files, and compare files and classes with each other.

    Args:
        listings: The files of each split.
        facts: Facts of each file.
        unused: Names of folders beside those of the splits.
        min_class_images: Training classes with fewer images are ``small_class``.
        prefixes: Path prefix of each split's files, such as ``"train/"``.

    Returns:
        The findings, in the order of :data:`KINDS`.
    """
    found = {kind: Finding(kind) for kind in KINDS}
    found["unused_folder"].files += [Found(f"{name}/", "folder") for name in unused]
    for split, listing in listings.items():
        for file, fact in zip(listing.files, facts[split], strict=True):
            for kind, seen in fact.findings:
                found[kind].files.append(Found(prefixes[split] + file, seen))
    for split, listing in listings.items():
        for name, count in zip(listing.classes, listing.class_counts().tolist(), strict=True):
            if count == 0:
                found["empty_class"].files.append(Found(prefixes[split] + name, "0 images"))
            elif split == "train" and count < min_class_images:
                found["small_class"].files.append(Found(prefixes[split] + name, f"{count} images"))
        found["left_out"].files += [Found(prefixes[split] + name, "hidden") for name in listing.left_out]
        found["unused_type"].files += [
            Found(prefixes[split] + name, PurePath(name).suffix or "no suffix") for name in listing.unused
        ]
    if len(listings) == 2:
        train, val = (set(listings[split].classes) for split in ("train", "val"))
        for split, names in (("train", train - val), ("val", val - train)):
            found["other_classes"].files += [
                Found(prefixes[split] + name, f"only in {split}/") for name in sorted(names)
            ]
    _compare_pixels(listings, facts, prefixes, found)
    return [finding for finding in found.values() if finding.files]


def _compare_pixels(
    listings: dict[str, ImageListing],
    facts: dict[str, Sequence[ImageFacts]],
    prefixes: dict[str, str],
    found: dict[str, Finding],
) -> None:
    groups: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for split in listings:
        for index, fact in enumerate(facts[split]):
            if fact.digest is not None:
                groups[fact.digest].append((split, index))

    def path(split: str, index: int) -> str:
        return prefixes[split] + listings[split].files[index]

    for group in groups.values():
        first: dict[str, int] = {}
        for split, index in group:
            if split in first:
                labels = listings[split].labels
                same = "same class" if labels[index] == labels[first[split]] else "another class"
                found["duplicate"].files.append(Found(path(split, index), same, path(split, first[split])))
            else:
                first[split] = index
        if len(first) == 2:
            twin = path("train", first["train"])
            found["leak"].files += [Found(path("val", index), "in both", twin) for s, index in group if s == "val"]
