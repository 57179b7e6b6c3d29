"""Checkpoints of the studio page, loaded on first use."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from jitflow.checkpoint.find import find_model
from jitflow.errors import ConfigError
from jitflow.io.files import existing_file
from jitflow.model import BUILTIN, Model, load

_MAX_LOADED = 2


class Library:
    """Checkpoints by name, of which the two most recently used models stay in memory.

    Args:
        checkpoints: Checkpoint files of any format, or runs' folders.
        device: Device of the models; the fastest available by default.
        vavae_path: The VA-VAE that latent models need, or ``builtin`` for the codec inside the checkpoint.

    Raises:
        ConfigError: If no checkpoint is given.
        MissingFileError: If one does not exist.

    Attributes:
        vavae_path: As given.
    """

    def __init__(
        self, checkpoints: Sequence[str | Path], *, device: str | None = None, vavae_path: str = BUILTIN
    ) -> None:
        paths = [existing_file(find_model(path), what="checkpoint") for path in checkpoints]
        if not paths:
            raise ConfigError("name at least one checkpoint: jitflow studio runs/demo/images/checkpoints/last.ckpt")
        self._paths = {str(path): path for path in paths}
        self._device = device
        self.vavae_path = vavae_path
        self._loaded: OrderedDict[str, tuple[Model, tuple[int, int]]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Names of the checkpoints, as they were given."""
        return list(self._paths)

    def open(self, name: str) -> Model:
        """Return the model of a checkpoint, loading it if needed, also if its file has changed.

        Raises:
            ConfigError: If no checkpoint has this name; only the given files are ever opened.
            MissingFileError: If it was removed.
            CheckpointError: If it cannot be loaded.
        """
        if not isinstance(name, str) or name not in self._paths:
            raise ConfigError(f"{name!r} is none of this page's checkpoints: {', '.join(self._paths)}")
        with self._lock:
            state = _state_of(existing_file(self._paths[name], what="checkpoint"))
            if name in self._loaded and self._loaded[name][1] != state:
                del self._loaded[name]
            if name not in self._loaded:
                while len(self._loaded) >= _MAX_LOADED:
                    self._loaded.popitem(last=False)
                self._loaded[name] = self._load(self._paths[name]), state
            self._loaded.move_to_end(name)
            return self._loaded[name][0]

    def changed(self, name: str) -> str:
        """Say that a checkpoint's file is another one than when it was loaded; empty if it is not.

        Args:
            name: Name of the checkpoint, which :meth:`open` will load again.
        """
        with self._lock:
            loaded = self._loaded.get(name) if isinstance(name, str) else None
            if loaded is None or not self._paths[name].exists() or _state_of(self._paths[name]) == loaded[1]:
                return ""
        return "The checkpoint on disk has changed, and was loaded again."

    def _load(self, path: Path) -> Model:
        model = load(path, device=self._device)
        if model.module.takes_codec_file and str(self.vavae_path) != BUILTIN:
            model.module.load_codec(self.vavae_path)
            model.to(model.module.device)
        return model


def _state_of(path: Path) -> tuple[int, int]:
    """Return what changes when a file is replaced or written: its modification time and size."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size
