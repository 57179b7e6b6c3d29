"""Held-out text for judging a model: the part that its training did not use."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jitflow.apps.text.data import TextDataModule, on_builtin_corpus
from jitflow.apps.text.files import DEFAULT_DATA_PATH
from jitflow.apps.text.module import TextLightningModule
from jitflow.apps.text.windows import Windows
from jitflow.checkpoint.recipe import held_recipe
from jitflow.errors import DataError, MissingFileError
from jitflow.io.files import load_checkpoint, user_path
from jitflow.io.progress import meter

log = logging.getLogger(__name__)
# Training text that is compared with, in tokens: the search for copies needs 60 bytes of memory a character.
MOST_TOKENS = 20_000_000
_DEFAULTS = (str(DEFAULT_DATA_PATH), f"./{DEFAULT_DATA_PATH}")


class Texts(NamedTuple):
    """Windows of training and held-out text."""

    train: Windows
    held_out: Windows


def read_texts(
    module: TextLightningModule,
    checkpoint: str | Path,
    data_path: str | Path | None = None,
    val_path: str | Path | None = None,
) -> Texts:
    """Split a text into windows as a checkpoint's training did, with the same part held out.

    Args:
        module: The model, for its tokenizer.
        checkpoint: The file it was loaded from.
        data_path: The text; None takes the path in the checkpoint, or the built-in corpus, with a warning, if the file
            records none.
        val_path: Held-out text instead of a part of ``data_path``.

    Returns:
        Windows of both parts.

    Raises:
        MissingFileError: If a path does not exist, such as the recorded one.
        DataError: If there is no text or none of it is held out.
    """
    held = {} if Path(checkpoint).suffix == ".safetensors" else load_checkpoint(checkpoint)
    recorded = _recorded_data(held)
    if data_path is None:
        data_path = _recorded_text(checkpoint, held)
        val_path = val_path if val_path is not None else _recorded_path(checkpoint, recorded, "val_path")
    if data_path is None:
        log.info("measuring on the built-in corpus")
    with meter("tokenising", 1, unit="texts") as progress:
        data = TextDataModule(
            data_path,
            module.tokenizer,
            module.colours.num_tokens,
            val_path=val_path,
            **{name: recorded[name] for name in ("val_fraction", "pack", "encoding") if name in recorded},
            random_offset=False,
            progress=lambda done, total: progress.update(done / max(1, total)),
        )
        data.prepare_data()
        data.setup("fit")
    if data.dataset_val is None or not len(data.dataset_val):
        raise DataError(
            f"{data_path}: nothing of this text is held out, it is too short; give held-out text (val_path)"
        )
    return Texts(data.dataset_train, data.dataset_val)


def read_held_out(
    module: TextLightningModule, checkpoint: str | Path, num: int, *, data_path: str | Path | None = None
) -> Tensor:
    """Read evenly spaced windows of held-out text.

    Args:
        module: The model.
        checkpoint: Its file, which may record its text.
        num: Largest number of windows.
        data_path: The training text; None takes the recorded path.

    Returns:
        Token ids, shape ``(N, num_tokens)``.
    """
    return spread_windows(read_texts(module, checkpoint, data_path).held_out, num)


def spread_windows(windows: Windows, num: int) -> Tensor:
    """Select at most ``num`` evenly spaced windows of a text: ids, shape ``(N, num_tokens)``."""
    chosen = torch.linspace(0, len(windows) - 1, min(num, len(windows))).round().long()
    return windows.read_batch(chosen)[0]


def _recorded_data(held: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the training's data module, as far as the checkpoint records them.

    A file older than recipes has the documented arguments instead; a file of weights alone has none.
    """
    recipe = held_recipe(held)
    arguments = held.get("args") if recipe is None else recipe.get("data", {}).get("init_args")
    return dict(arguments) if isinstance(arguments, Mapping) else {}


def _recorded_text(checkpoint: str | Path, held: dict[str, Any]) -> Path | None:
    """Return the path of a model's training text; None for the built-in corpus."""
    recorded = _recorded_data(held)
    if "data_path" not in recorded:
        log.warning(
            "%s does not say which text it was trained on, which is taken to be the built-in corpus; "
            "--reference names another",
            checkpoint,
        )
        return None
    is_missing_default = recorded["data_path"] in _DEFAULTS and not DEFAULT_DATA_PATH.exists()
    # The built-in corpus may have replaced the default path; older files do not record whether it did.
    if is_missing_default and on_builtin_corpus(held) is not False:
        return None
    return _recorded_path(checkpoint, recorded, "data_path")


def _recorded_path(checkpoint: str | Path, recorded: Mapping[str, Any], name: str) -> Path | None:
    if recorded.get(name) is None:
        return None
    path = user_path(recorded[name])
    if not path.exists():
        option = "--reference" if name == "data_path" else f"--{name}"
        raise MissingFileError(f"{checkpoint} was trained with {name} {path}, which does not exist here; give {option}")
    return path
