"""Text for a recipe: the data module of text with a tokeniser and a window that a YAML file can name."""

from __future__ import annotations

from pathlib import Path

from jitflow.apps.text.colour import ColourCodec, Mapping
from jitflow.apps.text.data import TextDataModule
from jitflow.apps.text.module import read_tokenizer


class TextRecipeData(TextDataModule):
    """Windows of text of the length that an image of a mapping holds.

    Args:
        data_path: File or folder of .txt, .json or .jsonl; None takes the built-in corpus.
        tokenizer: ``"bytes"``, or a folder with a ``tokenizer.json``; the model's.
        mapping: The model's mapping.
        img_size: Side of the model's images in pixels.
        batch_size: Windows per batch and process.
        val_path: Text to validate on; None holds out a part of ``data_path``.
        val_fraction: Share of ``data_path`` that is held out.
        cache_dir: Where the tokens are kept; None keeps them in a temporary folder.
        num_workers: Loader processes.
        seed: Seed of order and offsets; None is the run's.

    Raises:
        ConfigError: If a value is out of range.
    """

    def __init__(
        self,
        data_path: str | Path | None = None,
        tokenizer: str = "bytes",
        mapping: Mapping = "codebook",
        img_size: int = 64,
        *,
        batch_size: int = 32,
        val_path: str | Path | None = None,
        val_fraction: float = 0.05,
        cache_dir: str | Path | None = None,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        words = read_tokenizer(tokenizer)
        super().__init__(
            data_path,
            words,
            ColourCodec(words.vocab_size, mapping, img_size).num_tokens,
            batch_size=batch_size,
            val_path=val_path,
            val_fraction=val_fraction,
            cache_dir=cache_dir,
            img_size=img_size,
            num_workers=num_workers,
            seed=seed,
        )
