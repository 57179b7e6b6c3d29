"""Descriptions of image models and prepared images for ``jitflow info``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jitflow.apps.images.shard_record import FORMAT
from jitflow.apps.images.shards import is_shard_folder, open_shard_folder
from jitflow.data.folder_scan import SUFFIXES
from jitflow.errors import JitflowError
from jitflow.io.file_tree import list_tree, subfolders
from jitflow.training.application import Description

_SHOWN = 12


def describe_model(settings: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, str]:
    """Describe an image model from its module's settings and its file's additional state."""
    size = settings.get("img_size")
    height, width = size if isinstance(size, tuple | list) else (size, size)
    channels = settings.get("in_channels", 3)
    classes = str(settings.get("num_classes", "?"))
    names = [str(name) for name in extra.get("classes") or ()]
    if names:
        shown = ", ".join(f"{label} {name}" for label, name in enumerate(names[:_SHOWN]))
        classes = f"{classes}: {shown}{', ...' if len(names) > _SHOWN else ''}"
    return {"images": f"{height}x{width}, {channels} channels", "classes": classes}


def describe_file(path: Path, content: Mapping[str, Any]) -> Description | None:
    """Describe prepared images: a shard, the manifest of a folder, or the folder.

    Args:
        path: The file or folder.
        content: Its metadata or JSON; ``shapes`` of arrays by name.

    Returns:
        The description; None if it is something else.
    """
    if content.get("format") != FORMAT:
        return None
    if path.suffix == ".safetensors":
        facts = {name: "x".join(map(str, shape)) for name, shape in content["shapes"].items()}
        return Description("shard of prepared images", facts, [f"jitflow info {shlex.quote(str(path.parent))}"])
    splits = {
        name: sum(int(shard["num_images"]) for shard in entry["shards"]) for name, entry in content["splits"].items()
    }
    facts = {
        "images": ", ".join(f"{count} in {name}" for name, count in splits.items()),
        "shape": f"{'x'.join(map(str, content['img_size']))}, {content['channels']} channels",
        "classes": str(len(content["classes"])),
    }
    quoted = shlex.quote(str(path if path.is_dir() else path.parent))
    commands = [f"jitflow train --config images/jit_b16_256 --data.data_path {quoted}", f"jitflow data check {quoted}"]
    return Description("prepared images (shards)", facts, commands)


def look_at_data(folder: Path) -> tuple[str, str, str]:
    """Look at a folder of images, prepared or not, without reading all of it.

    Args:
        folder: The folder, which exists.

    Returns:
        State (``ok`` or ``error``), what is there, and the way out of an error.
    """
    if is_shard_folder(folder):
        try:
            shards = open_shard_folder(folder)
        except JitflowError as error:
            return "error", str(error), ""
        return "ok", f"{folder}: prepared, {len(shards.classes)} classes", ""
    train = folder / "train" if (folder / "train").is_dir() else folder
    classes = [train / name for name in subfolders(train)[0]]
    if not classes:
        way_out = "put images into train/<class>/, also if there is one class only"
        return "error", f"{train} has no class folders", way_out
    empty = [p.name for p in classes if not list_tree(p).files(SUFFIXES)]
    if empty:
        text = f"{len(empty)} of {len(classes)} classes hold no image, such as {empty[0]}"
        return "error", text, f"jitflow data check {folder} lists them"
    return "ok", f"{folder}: {len(classes)} classes (`jitflow data check {folder}` reads every file)", ""
