"""Format sizes, counts and durations for people to read."""

from __future__ import annotations

from pathlib import Path

_DAY_SEC = 86400


def format_bytes(num_bytes: int) -> str:
    """Format a number of bytes in decimal units, such as ``14.8 MB``."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def format_count(number: int) -> str:
    """Format a large count, such as of parameters, with three digits: ``131M``."""
    size = float(number)
    for unit in ("", "k", "M"):
        if size < 1000:
            return f"{size:.3g}{unit}"
        size /= 1000
    return f"{size:.3g}G"


def size_on_disk(path: Path) -> int:
    """Return the size in bytes of a file, or of all files below a folder, symbolic links not followed."""
    if path.is_file():
        return path.stat().st_size
    return sum(p.lstat().st_size for p in path.rglob("*") if p.is_file() and not p.is_symlink())


def format_seconds(seconds: float) -> str:
    """Format a time in seconds as ``h:mm:ss`` or ``m:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_duration(seconds: float) -> str:
    """Format a long or short time roughly, in the largest unit that fits: ``956 h``, ``12 min``, ``3.4 s``."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} s"


def describe_time(step_sec: float, num_steps: float) -> str:
    """Describe the time of a training, and how much of it fits into a day if it takes longer.

    Args:
        step_sec: Seconds of an optimiser step.
        num_steps: Optimiser steps of the training, or those left.
    """
    line = f"about {format_duration(step_sec * num_steps)} for {num_steps:,.0f} steps of {step_sec:.3g} s"
    if step_sec * num_steps <= _DAY_SEC:
        return line
    return f"{line}; {_DAY_SEC / step_sec:,.0f} of them fit into a day (trainer.max_steps)"
