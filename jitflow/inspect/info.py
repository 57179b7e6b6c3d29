"""Describe a file or folder and the commands that use it: ``jitflow info``."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from jitflow.checkpoint.find import WEIGHTS_NAME
from jitflow.checkpoint.state import errors_of_damage
from jitflow.codec.diffusers_folder import CLASS_NAME, CONFIG_NAME
from jitflow.errors import MissingFileError
from jitflow.inspect.info_files import (
    Info,
    ask_applications,
    describe_autoencoder_folder,
    describe_file,
    listed,
)
from jitflow.io.file_tree import subfolders
from jitflow.io.files import read_json, user_path
from jitflow.io.units import format_bytes, size_on_disk
from jitflow.run.describe import describe_run, training_folder


def describe_path(path: str | Path) -> Info:
    """Describe a file or folder, such as a checkpoint. No code in it is executed, and no network is built.

    Args:
        path: The file or folder.

    Returns:
        The description. For an unknown kind the facts list its content.

    Raises:
        MissingFileError: If there is no such file or folder.
        JitflowError: If it is of a known kind but damaged.
    """
    path = user_path(path)
    if not path.exists():
        raise MissingFileError(f"there is no file or folder {path}; `jitflow runs` lists the runs there are")
    with errors_of_damage(path):
        info = _folder(path) if path.is_dir() else describe_file(path)
    return replace(info, facts={**info.facts, "size": format_bytes(size_on_disk(path))})


def _folder(path: Path) -> Info:
    for name in ("manifest.json", "extraction.json"):
        own = ask_applications(path, content) if (content := _json_content(path / name)) else None
        if own is not None:
            return own
    if training_folder(path) is not None:
        return _run(path)
    if (path / WEIGHTS_NAME).is_file():
        return describe_file(path / WEIGHTS_NAME)
    if _json_content(path / CONFIG_NAME).get("_class_name") == CLASS_NAME:
        return describe_autoencoder_folder(path)
    found = _folder_content(path)
    if (path / "velocity.pt2").is_file() and (path / "sample.py").is_file():
        classes = _json_content(path / "sampling.json").get("classes")
        facts = {"classes": listed([str(name) for name in classes]), **found} if isinstance(classes, list) else found
        script = shlex.quote(str(path / "sample.py"))
        return Info(path, "exported program", facts, [f"python {script} --labels 0,1 --seeds 0,1 --out images"])
    classes = subfolders(path / "train")[0] if (path / "train").is_dir() else []
    if classes:
        facts = {"classes": f"{len(classes)} in train, such as {classes[0]}", **found}
        quoted = shlex.quote(str(path))
        return Info(path, "folder of images by class", facts, [f"jitflow data check {quoted}"])
    return Info(path, "unknown folder", found, ["jitflow runs " + shlex.quote(str(path))])


def _run(path: Path) -> Info:
    run = describe_run(path)
    facts = {
        "application": run.application,
        "network": run.network,
        "state": f"{run.state} ({run.detail})" if run.detail else run.state,
        "note": run.note,
        "best score": f"{run.score[0]} {run.score[1]:.4g}" if run.score else "",
        "checkpoint": str(run.checkpoint) if run.checkpoint else "none",
        "data": _data(run.data),
        "seed": str(run.environment.get("seed", "")),
        "ran with": ", ".join(
            f"{name} {run.environment[name]}" for name in ("jitflow", "torch", "device") if run.environment.get(name)
        ),
        "commit": str(run.environment.get("commit") or ""),
        "started": str(run.environment.get("started", "")),
        "command": str(run.environment.get("command", "")),
        "changed": run.changed.isoformat(sep=" "),
    }
    commands = [run.command] if run.command else []
    commands.append(f"jitflow report {shlex.quote(str(path))}")
    return Info(path, "run", {name: fact for name, fact in facts.items() if fact}, commands)


def _data(record: dict[str, Any]) -> str:
    counts = ((record.get("num_samples"), "samples"), (record.get("num_classes"), "classes"))
    fact = [f"{count} {what}" for count, what in counts if count]
    fingerprint = str(record.get("fingerprint", ""))[:12]
    return ", ".join([*fact, f"fingerprint {fingerprint}"] if fingerprint else fact)


def _folder_content(path: Path) -> dict[str, str]:
    names = sorted(p.name + "/" * p.is_dir() for p in path.iterdir())
    return {"holds": listed(names) or "nothing"}


def _json_content(path: Path) -> dict[str, Any]:
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}
