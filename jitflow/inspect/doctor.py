"""Whether this machine and this installation can do what is asked of them: ``jitflow doctor``."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import jitflow
from jitflow.applications import BUILT_IN, get_application, load_object
from jitflow.errors import JitflowError
from jitflow.evaluation.features import find_inception_weights
from jitflow.evaluation.frechet import find_statistics
from jitflow.host import thread_waiting
from jitflow.io.units import format_bytes
from jitflow.model import default_device

Level = Literal["ok", "note", "error"]
_LITTLE_SPACE, _NO_SPACE = 20_000_000_000, 1_000_000_000


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: What.
        level: ``ok``; ``note`` for what may matter; ``error`` for what will fail.
        said: How it is.
        way_out: What to do about it; empty if nothing is to be done.
    """

    topic: str
    level: Level
    said: str
    way_out: str = ""


def examine(data: str | Path | None = None, out: str | Path = "runs") -> list[Finding]:
    """Look at everything that commonly goes wrong before long work starts. Nothing is changed or downloaded.

    Args:
        data: Folder of images to train on; None looks at the built-in digits.
        out: Folder that runs will be written into; it need not exist.

    Returns:
        The findings, in the order of the work.
    """
    return [
        check_python(platform.python_version(), _required_python()),
        *check_packages(_requirements(), _installed_version),
        check_device(),
        check_precision(),
        check_threads(torch.get_num_threads(), os.cpu_count() or 1, thread_waiting()),
        check_data(data),
        check_inception(),
        check_statistics(),
        check_disk(Path(out), shutil.disk_usage(_nearest(Path(out))).free),
        check_writing(Path(out)),
    ]


def check_python(version: str, required: str) -> Finding:
    """Compare the version of Python with the one that the package asks for, such as ``>=3.10``."""
    if required and version not in SpecifierSet(required):
        return Finding("python", "error", f"{version}, but jitflow {jitflow.__version__} needs {required}", "use it")
    return Finding("python", "ok", f"{version} on {platform.system()} {platform.machine()}")


def check_packages(requirements: list[Requirement], version_of: Callable[[str], str | None]) -> list[Finding]:
    """Compare installed packages with what the package asks for.

    Args:
        requirements: What it asks for; those with an extra are options.
        version_of: Version of an installed package by name, None if it is missing.

    Returns:
        One finding for all that fit, and one for each that does not; a missing option is a note.
    """
    fitting, findings = [], []
    for requirement in requirements:
        found, extra = version_of(requirement.name), _extra_of(requirement)
        install = f"pip install 'jitflow[{extra}]'" if extra else f"pip install '{_bare(requirement)}'"
        if found is None:
            said = f"{requirement.name} is not installed" + (f" (only for the extra {extra!r})" if extra else "")
            findings.append(Finding("packages", "note" if extra else "error", said, install))
        elif not requirement.specifier.contains(found, prereleases=True):
            said = f"{requirement.name} {found} is installed, {requirement.specifier} is needed"
            findings.append(Finding("packages", "error", said, f"pip install '{_bare(requirement)}'"))
        elif not extra:
            fitting.append(f"{requirement.name} {found}")
    return [Finding("packages", "ok", f"jitflow {jitflow.__version__}, {', '.join(fitting)}"), *findings]


def check_device() -> Finding:
    """Say which device will be used, after a small computation on it."""
    device = default_device()
    try:
        ones = torch.ones(8, 8, device=device)
        right = bool(((ones @ ones) == 8).all())
    except RuntimeError as error:
        said = f"{device} is there but does not compute ({str(error).splitlines()[0]})"
        return Finding("device", "error", said, "use --device cpu, or mend the driver")
    if not right:
        return Finding("device", "error", f"{device} computes wrongly", "use --device cpu, and test the hardware")
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        more = f", {torch.cuda.device_count()} of them" if torch.cuda.device_count() > 1 else ""
        return Finding("device", "ok", f"{properties.name}, {format_bytes(properties.total_memory)}{more}")
    if device == "cpu" and torch.version.cuda is not None:
        said = f"cpu; this torch was built for CUDA {torch.version.cuda}, but no GPU answers"
        return Finding("device", "note", said, "if there is one, `nvidia-smi` says what its driver thinks")
    return Finding("device", "ok", device)


def check_precision() -> Finding:
    """Say which precision to train in."""
    device = default_device()
    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Finding("precision", "ok", "bf16-mixed (this GPU computes in bfloat16)")
        said = "this GPU has no bfloat16 of its own"
        return Finding("precision", "note", said, "train with --trainer.precision 16-mixed or 32-true")
    return Finding("precision", "ok", f"32-true on {device}; half precision brings no speed here")


def check_threads(num_threads: int, num_cores: int, waiting: str | None) -> Finding:
    """Look for threads that will disturb each other.

    Args:
        num_threads: Threads that torch uses.
        num_cores: Cores of the machine.
        waiting: What the environment says about waiting threads, None for nothing.
    """
    said = f"{num_threads} of torch on {num_cores} cores, {waiting or 'waiting as their library likes'}"
    if num_threads > num_cores:
        return Finding("threads", "note", said, f"export OMP_NUM_THREADS={num_cores}")
    if waiting is None:
        way_out = "export GOMP_SPINCOUNT=1000 before Python starts, as `jitflow` does, or they wait in each other's way"
        return Finding("threads", "note", said, way_out)
    return Finding("threads", "ok", said)


def check_data(data: str | Path | None) -> Finding:
    """Look at a folder of images, prepared or not, without reading all of it; None is the built-in digits."""
    if data is None:
        if importlib.util.find_spec("sklearn") is None:
            return Finding("data", "note", "no folder was named, and the built-in digits need scikit-learn", _DEMO)
        return Finding("data", "ok", "no folder was named; the built-in digits are there")
    folder = Path(data).expanduser()
    if not folder.is_dir():
        return Finding("data", "error", f"{folder} is no folder", "name the folder that holds train/<class>/*.jpg")
    for name in BUILT_IN:
        look = get_application(name).look_at_data
        if look:
            return Finding("data", *load_object(look)(folder))
    return Finding("data", "note", f"no application here says what {folder} is")


def check_inception() -> Finding:
    """Look for the weights that FID and Inception Score need."""
    try:
        return Finding("FID weights", "ok", str(find_inception_weights()))
    except JitflowError as error:
        said, _, way_out = str(error).partition("; ")
        return Finding("FID weights", "note", said, way_out)


def check_statistics() -> Finding:
    """Look for the reference statistics of ImageNet at 256 pixels."""
    try:
        return Finding("FID reference", "ok", str(find_statistics(256)))
    except JitflowError as error:
        said, _, way_out = str(error).partition("; ")
        return Finding("FID reference", "note", said, way_out)


def check_disk(out: Path, free_bytes: int) -> Finding:
    """Judge the free space where runs will be written."""
    said = f"{format_bytes(free_bytes)} free for {out}"
    if free_bytes < _NO_SPACE:
        return Finding("disk", "error", said, "free some space or choose another folder")
    if free_bytes < _LITTLE_SPACE:
        return Finding("disk", "note", said, "a checkpoint of JiT-B takes 2.6 GB, of JiT-H 19 GB")
    return Finding("disk", "ok", said)


def check_writing(out: Path) -> Finding:
    """Try to write where runs will be written; nothing is left behind."""
    place = _nearest(out)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        said = f"cannot write into {place} ({error.strerror or error})"
        return Finding("writing", "error", said, "choose another folder with --out or --run_dir")
    return Finding("writing", "ok", f"{place} can be written")


_DEMO = "pip install 'jitflow[demo]', or name a folder with --data"


def _nearest(path: Path) -> Path:
    """The folder itself, or the nearest above it that exists."""
    path = path.expanduser().absolute()
    while not path.is_dir():
        path = path.parent
    return path


def _required_python() -> str:
    try:
        return importlib.metadata.metadata("jitflow")["Requires-Python"]
    except importlib.metadata.PackageNotFoundError:
        return ""


def _requirements() -> list[Requirement]:
    try:
        listed = importlib.metadata.requires("jitflow") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    # What only developers need is no part of an installation.
    return [r for r in map(Requirement, listed) if _extra_of(r) != "dev"]


def _installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extra_of(requirement: Requirement) -> str:
    """Name of the extra that asks for it; empty if the package itself does."""
    _, mark, name = str(requirement.marker or "").partition("extra ==")
    return name.strip().strip("\"'") if mark else ""


def _bare(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"
