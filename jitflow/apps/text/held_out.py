"""The text that a model is judged on: what was held out from its training."""

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
from jitflow.io.files import load_checkpoint
from jitflow.io.progress import meter

log = logging.getLogger(__name__)
# Training text that is compared with, in tokens: the search for copies needs 60 bytes of memory a character.
MOST_TOKENS = 20_000_000
_DEFAULTS = (str(DEFAULT_DATA_PATH), f"./{DEFAULT_DATA_PATH}")


class Texts(NamedTuple):
    """Training and held-out text as windows."""

    train: Windows
    held_out: Windows


def read_texts(
    module: TextLightningModule,
    checkpoint: str | Path,
    data_path: str | Path | None = None,
    val_path: str | Path | None = None,
) -> Texts:
    """Cut a text as the training of a checkpoint did, with the same part held out.

    Args:
        module: The model, for its tokenizer.
        checkpoint: The file it was loaded from.
        data_path: The text; None takes what the checkpoint records, or for a file that records nothing the built-in
            corpus, with a warning.
        val_path: Held-out text in place of a part of ``data_path``.

    Returns:
        Both parts.

    Raises:
        MissingFileError: If a path does not exist, such as that of the recorded text.
        DataError: If there is no text or nothing of it is held out.
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
            progress=lambda done, in_all: progress.update(done / max(1, in_all)),
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
    """Read windows of held-out text, spread over it.

    Args:
        module: The model.
        checkpoint: Its file, which may record its text.
        num: How many at most.
        data_path: The text it was trained on; None for what the file records.

    Returns:
        Token ids, shape ``(N, num_tokens)``.
    """
    return spread_windows(read_texts(module, checkpoint, data_path).held_out, num)


def spread_windows(windows: Windows, num: int) -> Tensor:
    """Take at most ``num`` windows from all over a text: ids, shape ``(N, num_tokens)``."""
    chosen = torch.linspace(0, len(windows) - 1, min(num, len(windows))).round().long()
    return windows.read_batch(chosen)[0]


def _recorded_data(held: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the training's data module, as far as a checkpoint holds them.

    A file from before recipes holds the documented words instead, one of weights alone holds nothing.
    """
    recipe = held_recipe(held)
    arguments = held.get("args") if recipe is None else recipe.get("data", {}).get("init_args")
    return dict(arguments) if isinstance(arguments, Mapping) else {}


def _recorded_text(checkpoint: str | Path, held: dict[str, Any]) -> Path | None:
    """The text that a model was trained on; None for the built-in corpus."""
    recorded = _recorded_data(held)
    if "data_path" not in recorded:
        log.warning(
            "%s does not say which text it was trained on, which is taken to be the built-in corpus; "
            "--reference names another",
            checkpoint,
        )
        return None
    is_missing_default = recorded["data_path"] in _DEFAULTS and not DEFAULT_DATA_PATH.exists()
    # The corpus may have stood in for it; files from before this was written down leave that open.
    if is_missing_default and on_builtin_corpus(held) is not False:
        return None
    return _recorded_path(checkpoint, recorded, "data_path")


def _recorded_path(checkpoint: str | Path, recorded: Mapping[str, Any], name: str) -> Path | None:
    if recorded.get(name) is None:
        return None
    path = Path(recorded[name]).expanduser()
    if not path.exists():
        option = "--reference" if name == "data_path" else f"--{name}"
        raise MissingFileError(f"{checkpoint} was trained with {name} {path}, which does not exist here; give {option}")
    return path
