"""Read files without running code from them; write files atomically.

Only tensors and plain values are ever unpickled, and a file has its final name only once it is complete.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import pickle
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jitflow.errors import CheckpointError, ConfigError, MissingFileError, WriteError
from jitflow.io.json_text import parse_json
from jitflow.io.mistaken_file import describe_mistaken_file, unreadable
from jitflow.io.pickle_scan import UnsafePickleError
from jitflow.io.torch_file import check_content, check_pickles

# Errors of a disk that is full, read-only or broken.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)
# Names that :func:`temporary_beside` creates: a dot, the name, a dot, eight characters, the suffix again.
_TEMPORARY = re.compile(r"\..+?(\.[^.]+)\.[a-z0-9_]{8}(\.[^.]+)")
# Current and former import paths of Lightning's AttributeDict.
_DICTIONARIES = (
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning_lite.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "pytorch_lightning.utilities.data.AttributeDict",
)


def user_path(path: str | Path) -> Path:
    """Return a path with ``~`` at its beginning replaced by the home folder; a file ``~name`` is just that."""
    text = str(path)
    return Path(text).expanduser() if text == "~" or text.startswith(("~/", "~\\")) else Path(text)


def existing_file(path: str | Path, *, what: str = "file") -> Path:
    """Return the path of an existing file that can be opened.

    Args:
        path: The file; ``~`` is home.
        what: What it is called in errors.

    Returns:
        The path.

    Raises:
        MissingFileError: If there is no such file; it names the nearest existing folder.
        PermissionError: If it may not be read, which is no damage of the file.
    """
    path = user_path(path)
    if path.is_file():
        path.open("rb").close()
        return path
    if path.is_dir():
        raise MissingFileError(f"{what} {path} is a folder; name a file in it")
    near = path.parent
    while not near.exists():
        near = near.parent
    raise MissingFileError(f"{what} {path} does not exist (the nearest folder that does: {near.resolve()})")


def writable_folder(path: str | Path) -> Path:
    """Create a folder and return it; raise ConfigError, before long work starts, if no file can be written there.

    On a full disk an empty file can still be created, hence a byte is written.
    """
    folder = user_path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        raise ConfigError(f"cannot write into {folder} ({error.strerror or error}); choose another folder") from None
    return folder


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path that is renamed to ``path`` when the block succeeds.

    The file is flushed to disk before it is renamed, so that after a crash ``path`` holds either the
    old content or the new, never a part. If the block fails, the temporary file is removed and ``path`` stays as it
    was.

    Args:
        path: Final name of the file; missing folders are created.

    Yields:
        A path in the same folder, for the block to write to.
    """
    temporary = temporary_beside(path)
    try:
        with write_errors(path):
            yield temporary
            commit_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def write_errors(path: str | Path) -> Iterator[None]:
    """Convert errors of saving a checkpoint, image or other file to a full disk into one WriteError.

    Args:
        path: What is written, a file or a folder.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise _write_error(path, error.errno, error.strerror or str(error)) from None
    except Exception as error:
        # Libraries in Rust and C++ give the error number in the message only; torch not even that.
        text = str(error)
        number = next((number for number in _DISK_ERRORS if f"os error {number})" in text), None)
        if number is None and "PytorchStreamWriter failed" not in text and "inline_container" not in text:
            raise
        number = number or errno.ENOSPC
        raise _write_error(path, number, os.strerror(number)) from None


def _write_error(path: str | Path, number: int | None, reason: str) -> WriteError:
    return WriteError(number, reason, f"cannot write {path} ({reason}); free some space, or choose another folder")


def clear_leftovers(folder: str | Path, suffix: str = "") -> None:
    """Remove temporary files of checkpoints and images that an interrupted :func:`atomic_path` left in a folder.

    Args:
        folder: The folder; no other process may write there.
        suffix: Suffix of the files; any by default.
    """
    place = Path(folder)
    for path in place.iterdir() if place.is_dir() else ():
        match = _TEMPORARY.fullmatch(path.name)
        if match and match[1] == match[2] and match[1].endswith(suffix) and path.is_file():
            path.unlink(missing_ok=True)


def temporary_beside(path: str | Path) -> Path:
    """Create an empty hidden file beside ``path``, with the same suffix, for :func:`commit_file` to rename."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    except OSError as error:
        raise _write_error(path, error.errno, error.strerror or str(error)) from None
    os.close(handle)
    return Path(name)


def commit_file(temporary: Path, path: str | Path) -> None:
    """Flush a temporary file to disk and rename it to its final name, replacing an older file.

    Args:
        temporary: The file from :func:`temporary_beside`, complete.
        path: Final name, in the same folder.
    """
    # mkstemp makes files private to the user; restore the permissions of a plain open().
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    path = Path(path)
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk where the system can; a renamed file may otherwise be lost in a power cut."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network and user-space file systems cannot sync a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS):
            raise
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write an indented JSON file atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; raise ConfigError, naming it, if it is not valid or gives a key twice."""
    path = existing_file(path)
    try:
        return parse_json(path.read_text(encoding="utf-8"), on_pairs=_unique_keys)
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON ({error})") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make the dictionary of a JSON object; raise ValueError if a key is given twice."""
    settings = dict(pairs)
    if len(settings) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        repeated = next(name for name in settings if counts[name] > 1)
        raise ValueError(f"the key {repeated!r} is given twice; remove one")
    return settings


def file_checksum(path: str | Path) -> str:
    """Return the SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a torch checkpoint that holds only tensors and plain values.

    Args:
        path: A ``.ckpt`` or ``.pth`` file.

    Returns:
        The dictionary it holds, tensors on the CPU and mapped from the file where its format allows.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it is damaged, holds objects whose loading would run code, or is not a dictionary.
    """
    import torch

    path = existing_file(path, what="checkpoint")
    try:
        check_pickles(path, _DICTIONARIES)
        with torch.serialization.safe_globals(_plain_globals()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
        if isinstance(checkpoint, dict):
            check_content(checkpoint, path)
    except (pickle.UnpicklingError, UnsafePickleError) as error:
        mistaken = describe_mistaken_file(path)
        if mistaken:
            raise CheckpointError(f"{path} {mistaken}") from None
        raise CheckpointError(
            f"{path} was refused: it is damaged or holds objects other than tensors and plain values "
            f"({_unpickling_reason(error)}); where it was made, save it anew without them: model, model_ema1 and "
            "model_ema2 are enough"
        ) from None
    # Damaged bytes can make the unpickler raise almost anything: IndexError, struct.error, AssertionError, ...
    except Exception as error:  # noqa: BLE001
        reason = str(error).split("\n")[0] or type(error).__name__
        raise CheckpointError(unreadable(path, f"not a checkpoint ({reason})")) from None
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint")
    return checkpoint


def _plain_globals() -> list[Any]:
    """Return the classes that a checkpoint may name besides torch's own; all of them only hold values.

    The JiT release stores its arguments in a Namespace, which only holds attributes. Lightning stores hyper-parameters
    in its AttributeDict, whose names are read as a plain dictionary, so that none of its code is imported or called.
    """
    return [argparse.Namespace, *((dict, name) for name in _DICTIONARIES)]


def _unpickling_reason(error: Exception) -> str:
    """Shorten torch's long unpickling error, such as to ``Unsupported global: GLOBAL argparse.Namespace``."""
    text = str(error)
    detail = text.partition("WeightsUnpickler error: ")[2] or text
    return detail.split("\n")[0].split(". ")[0].split(" was not an allowed global")[0] or type(error).__name__
