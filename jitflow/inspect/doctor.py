"""Check machine and installation before long work: ``jitflow doctor``."""

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
from jitflow.errors import ConfigError, JitflowError
from jitflow.evaluation.features import find_inception_weights
from jitflow.evaluation.frechet import find_statistics
from jitflow.host import allow_tf32, is_tf32_allowed, thread_waiting
from jitflow.io.files import user_path
from jitflow.io.units import format_bytes
from jitflow.layers.fusion import NO_KERNELS, runs_kernels
from jitflow.model import default_device
from jitflow.training.float8 import check_float8

Level = Literal["ok", "note", "error"]
_LITTLE_SPACE, _NO_SPACE = 20_000_000_000, 1_000_000_000


@dataclass(frozen=True)
class Finding:
    """Result of one check of the machine, the installation or the data.

    Attributes:
        topic: Subject of the check.
        level: ``ok``; ``note`` for a possible problem; ``error`` for a certain failure.
        message: The result.
        advice: What to do about it; empty if nothing.
    """

    topic: str
    level: Level
    message: str
    advice: str = ""


def examine(data: str | Path | None = None, out: str | Path = "runs") -> list[Finding]:
    """Check packages, device, data and disk for common problems. Nothing is changed or downloaded.

    Args:
        data: Folder of images to train on; None checks the built-in digits.
        out: Folder for runs; it need not exist.

    Returns:
        The findings, in order of the checks.
    """
    return [
        check_python(platform.python_version(), _required_python()),
        *check_packages(_requirements(), _installed_version),
        check_device(),
        check_precision(),
        check_kernels(),
        check_threads(torch.get_num_threads(), os.cpu_count() or 1, thread_waiting()),
        check_data(data),
        check_inception(),
        check_statistics(),
        check_disk(Path(out), shutil.disk_usage(_nearest(Path(out))).free),
        check_writing(Path(out)),
    ]


def check_python(version: str, required: str) -> Finding:
    """Check the Python version for ``jitflow doctor`` against the requirement, such as ``>=3.10``."""
    if required and version not in SpecifierSet(required):
        return Finding("python", "error", f"{version}, but jitflow {jitflow.__version__} needs {required}", "use it")
    return Finding("python", "ok", f"{version} on {platform.system()} {platform.machine()}")


def check_packages(requirements: list[Requirement], version_of: Callable[[str], str | None]) -> list[Finding]:
    """Check the versions of installed packages for ``jitflow doctor`` against the requirements.

    Args:
        requirements: The package's requirements; those of an extra are optional.
        version_of: Version of an installed package by name, None if it is missing.

    Returns:
        One finding for all fulfilled requirements, and one for each other; a missing optional package is a note.
    """
    fitting, findings = [], []
    for requirement in requirements:
        found, extra = version_of(requirement.name), _extra_of(requirement)
        install = f"pip install 'jitflow[{extra}]'" if extra else f"pip install '{_pip_name(requirement)}'"
        if found is None:
            message = f"{requirement.name} is not installed" + (f" (only for the extra {extra!r})" if extra else "")
            findings.append(Finding("packages", "note" if extra else "error", message, install))
        elif not requirement.specifier.contains(found, prereleases=True):
            message = f"{requirement.name} {found} is installed, {requirement.specifier} is needed"
            findings.append(Finding("packages", "error", message, f"pip install '{_pip_name(requirement)}'"))
        elif not extra:
            fitting.append(f"{requirement.name} {found}")
    return [Finding("packages", "ok", f"jitflow {jitflow.__version__}, {', '.join(fitting)}"), *findings]


def check_device() -> Finding:
    """Check the default device with a small computation."""
    device = default_device()
    try:
        matrix = torch.ones(8, 8, device=device)
        right = bool(((matrix @ matrix) == 8).all())
    except RuntimeError as error:
        message = f"{device} is available but does not compute ({str(error).splitlines()[0]})"
        return Finding("device", "error", message, "use --device cpu, or repair the driver")
    if not right:
        return Finding("device", "error", f"{device} computes wrongly", "use --device cpu, and test the hardware")
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        more = f", {torch.cuda.device_count()} of them" if torch.cuda.device_count() > 1 else ""
        return Finding("device", "ok", f"{properties.name}, {format_bytes(properties.total_memory)}{more}")
    if device == "cpu" and torch.version.cuda is not None:
        message = f"cpu; this torch was built for CUDA {torch.version.cuda}, but no GPU answers"
        return Finding("device", "note", message, "if there is one, `nvidia-smi` says what its driver thinks")
    return Finding("device", "ok", device)


def check_precision() -> Finding:
    """Recommend the training precision of the device, and say how float32 is computed there."""
    device = default_device()
    if device == "cuda":
        allow_tf32()
        if torch.cuda.is_bf16_supported(including_emulation=False):
            also = ", or fp8-mixed for large networks" if _has_float8() else ""
            return Finding("precision", "ok", f"bf16-mixed (this GPU computes in bfloat16){also}; {_float32()}")
        message = f"this GPU does not support bfloat16 natively; {_float32()}"
        return Finding("precision", "note", message, "train with --trainer.precision 16-mixed or 32-true")
    return Finding("precision", "ok", f"32-true on {device}; half precision brings no speed here")


def check_kernels() -> Finding:
    """Check what compiled trainings and this library's kernels need on a GPU."""
    if default_device() != "cuda":
        return Finding("kernels", "ok", "not used on this device")
    if runs_kernels():
        return Finding("kernels", "ok", "built by Triton at their first use; training steps are compiled")
    return Finding("kernels", "note", NO_KERNELS, "install gcc, if that is what is missing")


def _has_float8() -> bool:
    try:
        check_float8()
    except ConfigError:
        return False
    return True


def _float32() -> str:
    """Describe the matrix products in float32 on CUDA."""
    if is_tf32_allowed():
        return "float32 products run in TF32 (NVIDIA_TF32_OVERRIDE=0 prevents it)"
    return "float32 products run in true float32"


def check_threads(num_threads: int, num_cores: int, waiting: str | None) -> Finding:
    """Check the number of threads, which can slow each other down.

    Args:
        num_threads: Threads that torch uses.
        num_cores: Cores of the machine.
        waiting: Environment variable that sets how threads wait, None if unset.
    """
    message = f"{num_threads} of torch on {num_cores} cores, {waiting or 'waiting as their library likes'}"
    if num_threads > num_cores:
        return Finding("threads", "note", message, f"export OMP_NUM_THREADS={num_cores}")
    if waiting is None:
        advice = "export GOMP_SPINCOUNT=1000 before Python starts, as `jitflow` does, or they wait in each other's way"
        return Finding("threads", "note", message, advice)
    return Finding("threads", "ok", message)


def check_data(data: str | Path | None) -> Finding:
    """Check a folder of images, prepared or not, without reading all of it; None checks the built-in digits."""
    if data is None:
        if importlib.util.find_spec("sklearn") is None:
            return Finding("data", "note", "no folder was named, and the built-in digits need scikit-learn", _DEMO)
        return Finding("data", "ok", "no folder was named; the built-in digits are there")
    folder = user_path(data)
    if not folder.is_dir():
        return Finding("data", "error", f"{folder} is no folder", "name the folder that holds train/<class>/*.jpg")
    for name in BUILT_IN:
        look = get_application(name).look_at_data
        if look:
            return Finding("data", *load_object(look)(folder))
    return Finding("data", "note", f"no application here says what {folder} is")


def check_inception() -> Finding:
    """Check for the Inception weights of FID and Inception Score."""
    try:
        return Finding("FID weights", "ok", str(find_inception_weights()))
    except JitflowError as error:
        message, _, advice = str(error).partition("; ")
        return Finding("FID weights", "note", message, advice)


def check_statistics() -> Finding:
    """Check for the reference statistics of ImageNet at 256 pixels."""
    try:
        return Finding("FID reference", "ok", str(find_statistics(256)))
    except JitflowError as error:
        message, _, advice = str(error).partition("; ")
        return Finding("FID reference", "note", message, advice)


def check_disk(out: Path, free_bytes: int) -> Finding:
    """Check the free disk space for checkpoints of runs."""
    message = f"{format_bytes(free_bytes)} free for {out}"
    if free_bytes < _NO_SPACE:
        return Finding("disk", "error", message, "free some space or choose another folder")
    if free_bytes < _LITTLE_SPACE:
        return Finding("disk", "note", message, "a checkpoint of JiT-B takes 2.6 GB, of JiT-H 19 GB")
    return Finding("disk", "ok", message)


def check_writing(out: Path) -> Finding:
    """Check that files can be written to the folder of runs, leaving nothing behind."""
    place = _nearest(out)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        message = f"cannot write into {place} ({error.strerror or error})"
        return Finding("writing", "error", message, "choose another folder with --run_dir")
    return Finding("writing", "ok", f"{place} can be written")


_DEMO = "pip install 'jitflow[demo]', or name a folder with --data"


def _nearest(path: Path) -> Path:
    """Return the folder itself, or its nearest existing parent."""
    path = user_path(path).absolute()
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
    # Developers' requirements are not part of an installation.
    return [r for r in map(Requirement, listed) if _extra_of(r) != "dev"]


def _installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extra_of(requirement: Requirement) -> str:
    """Return the extra of a package requirement; empty if it is not optional."""
    _, mark, name = str(requirement.marker or "").partition("extra ==")
    return name.strip().strip("\"'") if mark else ""


def _pip_name(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"
