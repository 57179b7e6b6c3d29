"""Upload and download exported models through the model hub's client; only on explicit request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jitflow.errors import ConfigError, optional_package

PREFIX = "hf://"
_DEFAULT_FILE = "model.safetensors"


def push(folder: str | Path, repository: str, *, private: bool = True, client: Any = None) -> str:
    """Upload an exported model folder to a hub as one commit; the repository is created if missing.

    Args:
        folder: A folder of :func:`jitflow.export.export.export`.
        repository: ``user/name``, with or without ``hf://``.
        private: Whether a new repository is private; an existing one is not changed.
        client: A ``huggingface_hub.HfApi``; by default one that is logged in by ``hf auth login`` or ``HF_TOKEN``.

    Returns:
        The repository's address, ``hf://user/name``.

    Raises:
        ConfigError: If the client is not installed, the name is invalid, or the hub refuses or cannot be reached.
    """
    folder, name = Path(folder), check_repository(repository)
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; export a model into it first")
    api = client or _client()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export of jitflow")
    except _failures() as error:
        reason = _first_line(error)
        raise ConfigError(f"{folder} is whole, but could not be uploaded to {PREFIX}{name}: {reason}") from error
    return f"{PREFIX}{name}"


def pull(address: str, folder: str | Path, *, client: Any = None) -> Path:
    """Download a file of weights from a hub.

    Args:
        address: ``hf://user/name`` for its ``model.safetensors``, or ``hf://user/name/path/of/file``.
        folder: Target folder.
        client: As in :func:`push`.

    Returns:
        The file.

    Raises:
        ConfigError: If the client is not installed, the address is invalid, or the hub has no such file.
    """
    parts = address.removeprefix(PREFIX).split("/")
    name, file = check_repository("/".join(parts[:2])), "/".join(parts[2:]) or _DEFAULT_FILE
    api = client or _client()
    try:
        return Path(api.hf_hub_download(name, file, local_dir=folder))
    except _failures() as error:
        raise ConfigError(f"{file} could not be fetched from {PREFIX}{name}: {_first_line(error)}") from error


def check_repository(repository: str) -> str:
    """Validate the name of a model repository, ``user/name``, and return it without ``hf://``."""
    name = repository.removeprefix(PREFIX)
    if len(name.split("/")) != 2 or not all(name.split("/")):
        raise ConfigError(f"a repository is user/name or {PREFIX}user/name; got {repository!r}")
    return name


def _client() -> Any:
    with optional_package("huggingface_hub", missing="a model hub needs its client; run pip install 'jitflow[hub]'"):
        from huggingface_hub import HfApi
    return HfApi()


def _failures() -> tuple[type[BaseException], ...]:
    from huggingface_hub.errors import HfHubHTTPError

    # Hub errors derive from OSError and from its HTTP library's connection errors.
    return (*HfHubHTTPError.__bases__, ValueError)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
