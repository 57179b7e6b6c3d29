"""The commands ``jitflow data prepare`` and ``jitflow data check``, for folders of images.

jsonargparse builds each command's options and help from the signature and docstring of its function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jitflow.errors import DataError
from jitflow.io.files import user_path


@dataclass(frozen=True)
class ReadingOptions:
    """Options for reading the image files of a data set.

    Attributes:
        workers: Worker processes; one per CPU core by default.
        on_error: Whether an unreadable file is an error, or skipped and recorded.
        max_skipped: Largest number of skipped files.
    """

    workers: int | None = None
    on_error: Literal["error", "skip"] = "error"
    max_skipped: int = 100


@dataclass(frozen=True)
class LimitOptions:
    """Limits beyond which images and classes of a data set are reported.

    Attributes:
        min_side: Images with a shorter side, in pixels, are reported as tiny.
        min_class_images: Classes with fewer images are reported.
        max_pixels: Images with more pixels are reported and not decoded.
    """

    min_side: int = 64
    min_class_images: int = 10
    max_pixels: int = 89_478_485


def prepare(
    folder: str,
    out: str,
    img_size: int = 256,
    channels: int = 3,
    dry_run: bool = False,
    reading: ReadingOptions = ReadingOptions(),
) -> None:
    """Store the centre crops of a folder of images, so that training need not decode them.

    Training from the result sees the same batches as training from the folder. Run the same command
    again to resume an interrupted preparation.

    Args:
        folder: train/<class>/<image> and possibly val/<class>/<image>, or <class>/<image>.
        out: Folder of the result.
        img_size: Side of the square crop in pixels.
        channels: 3 for colour, 1 for greyscale.
        dry_run: List the images and print what would be written, and write nothing.
        reading: Options for reading the files.
    """
    from jitflow.apps.images.prepare import describe
    from jitflow.apps.images.prepare import prepare as write_shards

    console = Console(markup=False, stderr=True, soft_wrap=True)
    if dry_run:
        console.print(f"would write {describe(folder, img_size=img_size, channels=channels)} into {out}")
        return
    manifest = write_shards(
        folder,
        out,
        img_size=img_size,
        channels=channels,
        workers=reading.workers,
        skip_damaged=reading.on_error == "skip",
        max_skipped=reading.max_skipped,
    )
    for split, entry in manifest["splits"].items():
        size = sum(shard["num_bytes"] for shard in entry["shards"])
        skipped = f", {entry['num_skipped']} skipped" if entry["num_skipped"] else ""
        console.print(
            f"{split}: {entry['num_images']} images{skipped}, {len(entry['shards'])} shards, {size / 1e9:.3g} GB"
        )
    console.print(f"train from it with data_path={out}, img_size={img_size}; test it with `jitflow data check {out}`")


def check(
    folder: str,
    out: str = "outputs/data_check",
    workers: int | None = None,
    limits: LimitOptions = LimitOptions(),
) -> None:
    """Check every image file of a data set, or every checksum of a prepared one.

    Writes a table, check.json and a contact sheet for each finding. Ends with an error, and exit status 1, if
    a finding would break or degrade a training.

    Args:
        folder: Folder of images, or one that `jitflow data prepare` has made.
        out: Folder of the report.
        workers: Worker processes; one per CPU core by default.
        limits: Limits beyond which images and classes are reported.
    """
    from jitflow.apps.images.check import check_folder, check_shards
    from jitflow.apps.images.shards import is_shard_folder

    console = Console(markup=False, stderr=True, soft_wrap=True)
    if user_path(folder).is_dir() and is_shard_folder(folder):
        report, problems = check_shards(folder, out, workers=workers)
        if problems:
            more = f" (and {len(problems) - 1} more, see {out}/check.json)" if len(problems) > 1 else ""
            raise DataError(problems[0] + more)
        console.print(f"{folder}: {report['num_shards']} shards, all checksums right")
        return
    report, findings = check_folder(
        folder,
        out,
        workers=workers,
        min_side_px=limits.min_side,
        min_class_images=limits.min_class_images,
        max_pixels=limits.max_pixels,
    )
    counts = ", ".join(f"{split} {count} images" for split, count in report["num_images"].items())
    if not findings:
        console.print(f"{folder}: {counts}, nothing found")
        return
    table = Table(title=Text(f"{folder}: {counts}"))
    for heading in ("finding", "severity", "count", "each of them", "for example"):
        table.add_column(heading, justify="right" if heading == "count" else "left", no_wrap=heading == "finding")
    for finding in findings:
        table.add_row(
            finding.kind, finding.severity, str(len(finding.files)), finding.meaning, Text(finding.files[0].file)
        )
    Console(markup=False).print(table)
    console.print(f"all of them in {out}/check.json, pictures beside it")
    errors = [f"{len(finding.files)} {finding.kind}" for finding in findings if finding.severity == "error"]
    if errors:
        raise DataError(f"{folder} has errors: {', '.join(errors)}; see {out}/check.json")
