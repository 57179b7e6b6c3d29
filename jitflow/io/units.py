"""Sizes and counts in the words people use."""

from __future__ import annotations

from pathlib import Path


def format_bytes(num_bytes: int) -> str:
    """Write a size in decimal units, such as ``14.8 MB``."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def format_count(number: int) -> str:
    """Write a large number with three digits, such as ``131M``."""
    size = float(number)
    for unit in ("", "k", "M"):
        if size < 1000:
            return f"{size:.3g}{unit}"
        size /= 1000
    return f"{size:.3g}G"


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of everything below a folder; a link counts nothing, since its target counts where it is."""
    if path.is_file():
        return path.stat().st_size
    return sum(p.lstat().st_size for p in path.rglob("*") if p.is_file() and not p.is_symlink())


def format_seconds(seconds: float) -> str:
    """Write a duration as ``h:mm:ss`` or ``m:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
