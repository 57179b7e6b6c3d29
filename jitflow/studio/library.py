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
        self._loaded: OrderedDict[str, Model] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Names of the checkpoints, as they were given."""
        return list(self._paths)

    def open(self, name: str) -> Model:
        """Return the model of a checkpoint, loading it if needed.

        Raises:
            ConfigError: If no checkpoint has this name; only the given files are ever opened.
            CheckpointError: If it cannot be loaded.
        """
        if name not in self._paths:
            raise ConfigError(f"{name!r} is none of this page's checkpoints: {', '.join(self._paths)}")
        with self._lock:
            if name not in self._loaded:
                while len(self._loaded) >= _MAX_LOADED:
                    self._loaded.popitem(last=False)
                self._loaded[name] = self._load(self._paths[name])
            self._loaded.move_to_end(name)
            return self._loaded[name]

    def _load(self, path: Path) -> Model:
        model = load(path, device=self._device)
        if model.module.takes_codec_file and str(self.vavae_path) != BUILTIN:
            model.module.load_codec(self.vavae_path)
            model.to(model.module.device)
        return model
