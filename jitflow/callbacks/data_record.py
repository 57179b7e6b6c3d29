"""What a run was trained on, written into its folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

import lightning.pytorch as pl

from jitflow.io.files import write_json

DATA_NAME = "data.json"
_SHOWN = ("num_samples", "num_val_samples", "num_classes", "img_size", "channels", "num_documents", "num_corpus_tokens")


class DataRecord(pl.Callback):
    """Write ``data.json`` when a training starts: sizes of the data, and a fingerprint that names them.

    Args:
        dirpath: The run's folder.
    """

    def __init__(self, dirpath: str | Path) -> None:
        self.dirpath = Path(dirpath)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the record, on the first process, of data that describe themselves."""
        data = getattr(trainer, "datamodule", None)
        describe = getattr(data, "get_dataset_info", None)
        if describe is None or not trainer.is_global_zero:
            return
        files = getattr(getattr(data, "dataset_train", None), "samples", ())
        write_json(self.dirpath / DATA_NAME, describe_data(describe(), files))


def describe_data(info: Mapping[str, Any], samples: Iterable[tuple[str, int]] = ()) -> dict[str, Any]:
    """Describe data in few words, with a fingerprint.

    The fingerprint is that of the data themselves where they have one (latents); else it is made of all that they say
    of themselves (classes, sizes, counts of tokens) and of the files' names, classes and order. It does not depend on
    where the data lie, and not on the content of image files, which would take hours to read.

    Args:
        info: What a data module's ``get_dataset_info`` returned.
        samples: Path and label of each training file, if there are files.

    Returns:
        Sizes, and ``fingerprint``, 64 hexadecimal digits or the data's own.
    """
    fingerprint = info.get("fingerprint")
    if fingerprint is None:
        digest = hashlib.sha256(json.dumps(info, sort_keys=True, default=str).encode())
        for path, label in samples:
            digest.update(f"{'/'.join(PurePath(path).parts[-2:])} {label}\n".encode())
        fingerprint = digest.hexdigest()
    return {**{name: info[name] for name in _SHOWN if name in info}, "fingerprint": str(fingerprint)}
