"""Recognise a file that is not what its suffix says: a Git LFS pointer, a web page, an empty file."""

from __future__ import annotations

from pathlib import Path

_LFS = b"version https://git-lfs.github.com/spec/"
_PAGES = (b"<!doctype html", b"<html", b"<?xml", b"<head", b"<script")
# Longer than any of these prefixes.
_LOOKED_AT_BYTES = 512


def describe_mistaken_file(path: str | Path) -> str | None:
    """Describe what was saved in place of a checkpoint or other file, and the remedy: a web page, a Git LFS pointer.

    Args:
        path: A file.

    Returns:
        Text such as ``is a Git LFS pointer, not the file itself; fetch it with `git lfs pull```, to stand behind the
        file's name; None if it is none of these.
    """
    try:
        with Path(path).open("rb") as file:
            start = file.read(_LOOKED_AT_BYTES)
    except OSError:
        return None
    if not start:
        return "is empty; copy or download it again"
    if start.startswith(_LFS):
        return "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGES):
        return "is a web page, not the file itself; download the file that the page links to"
    if not start.strip(b"\0") and len(start) == _LOOKED_AT_BYTES:
        return "begins with zeros only, as a download that broke off; download it again"
    return None


def unreadable(path: str | Path, otherwise: str) -> str:
    """Return the message for a checkpoint or other file that cannot be read: what it is instead, or that it is damaged.

    Args:
        path: A file.
        otherwise: What it may be besides damaged, such as ``no safetensors file``.
    """
    return f"{path} {describe_mistaken_file(path) or f'cannot be read; it is damaged or {otherwise}'}"
