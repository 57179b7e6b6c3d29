"""Data module for text: token ids in windows of equal length."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jitflow.apps.text.colour import ColourCodec, Mapping
from jitflow.apps.text.corpus import builtin_documents, builtin_size
from jitflow.apps.text.files import DEFAULT_DATA_PATH, TextFiles
from jitflow.apps.text.token_cache import TokenCache
from jitflow.apps.text.token_store import Progress, TextEncoder, TextList, TextSource, TokenStream, open_tokens
from jitflow.apps.text.tokenizer import read_or_learn
from jitflow.apps.text.windows import DocumentWindows, EpochWindows, PackedWindows, Windows
from jitflow.data.base import ImageDataModule, LoaderSettings
from jitflow.errors import CheckpointError, ConfigError
from jitflow.io.files import user_path

_log = logging.getLogger(__name__)
_STATE, _BUILTIN = "text", "builtin_corpus"
# Enough tokens to estimate frequencies, whatever the size of the corpus.
_MAX_COUNTED_TOKENS = 20_000_000


class TextDataModule(ImageDataModule):
    """Data module of token windows from text files or the built-in corpus.

    The corpus is tokenised once, as a stream, into a memory-mapped file, so it may be larger than memory. Batches are
    :class:`ImageBatch` with ids of shape ``(B, num_tokens)``, int64, as images and zeros as labels; each document is
    followed by the end token. Creating the object does not access the disk.

    Args:
        data_path: File or folder of .txt, .json or .jsonl; None takes the built-in corpus with its own split, as does
            ``./data/train`` if it does not exist.
        tokenizer: The tokenizer: an object, or its JSON, ``bytes``, a folder with a ``tokenizer.json``, or ``bpe`` or
            ``bpe:N`` to train one on the training text, which is cached in ``cache_dir``.
        num_tokens: Tokens in a window, as many as an image holds; None takes the number for ``mapping``.
        batch_size: Windows per batch and process.
        val_path: Validation text; None holds out a part of ``data_path``.
        val_fraction: Share of ``data_path`` that is held out, by document, in ``[0, 0.5]``; 0 for none.
        cache_dir: Folder that caches the tokens, named after tokenizer and files, for later runs and for the other
            processes of this run; None uses a temporary folder for each process.
        pack: Concatenate documents, which leaves hardly any padding (padding costs compute and teaches nothing); False
            begins each document in a new window.
        random_offset: Shift the windows of the training text in each epoch, as a function of (seed, epoch).
        encoding: Encoding of the files; None detects it for each file.
        progress: Called during tokenisation with the amount read so far and the total.
        img_size: Side in pixels of the image that encodes the ids.
        mapping: Colour mapping of that image, which determines its number of tokens.
        validate_on_training_text: Validate on the training text if the text is too short to hold out a part.
        loading: Further :class:`~jitflow.data.base.LoaderSettings`; the split does not depend on their seed.

    Raises:
        ConfigError: If a number is out of range.
    """

    unit = "windows of text"

    def __init__(
        self,
        data_path: str | Path | None = None,
        tokenizer: TextEncoder | str = "bytes",
        num_tokens: int | None = None,
        *,
        mapping: Mapping = "codebook",
        batch_size: int = 32,
        val_path: str | Path | None = None,
        val_fraction: float = 0.05,
        cache_dir: str | Path | None = None,
        pack: bool = True,
        random_offset: bool = True,
        encoding: str | None = None,
        progress: Progress | None = None,
        img_size: int = 64,
        validate_on_training_text: bool = False,
        **loading: Any,
    ) -> None:
        super().__init__(img_size, batch_size, LoaderSettings(**loading))
        if num_tokens is not None and num_tokens < 1:
            raise ConfigError(f"num_tokens must be at least 1; got {num_tokens}")
        if not 0 <= val_fraction <= 0.5:
            raise ConfigError(f"val_fraction must lie in [0, 0.5]; got {val_fraction}")
        self.data_path = data_path
        self.val_path = val_path
        self.mapping: Mapping = mapping
        self._side = img_size
        self.validate_on_training_text = validate_on_training_text
        # A tokenizer given by name is created when the text is read, on which it may have to be trained.
        self._tokenizer, self._num_tokens = tokenizer, num_tokens
        self.val_fraction = val_fraction
        self.cache_dir = cache_dir
        self.pack = pack
        self.random_offset = random_offset
        self.encoding = encoding
        self._cache = TokenCache(cache_dir, progress)

    @property
    def tokenizer(self) -> TextEncoder:
        """The tokenizer; trained on the training text on first use, if given as ``bpe``."""
        if isinstance(self._tokenizer, str):
            self._tokenizer = read_or_learn(self._tokenizer, self._training_text, cache_dir=self.cache_dir)
        return self._tokenizer

    @property
    def num_tokens(self) -> int:
        """Number of tokens in a window."""
        if self._num_tokens is None:
            self._num_tokens = ColourCodec(self.tokenizer.vocab_size, self.mapping, self._side).num_tokens
        return self._num_tokens

    def prepare_data(self) -> None:
        """Check the paths, and tokenise the text into ``cache_dir`` if given, once for all processes.

        Raises:
            MissingFileError: If a path does not exist.
            DataError: If there is no text.
        """
        train, val = self._sources()
        if self._cache.is_shared:
            self._token_file(train, self._held_out_share())
            if val is not None:
                self._token_file(val, 0.0)

    def setup(self, stage: str | None = None) -> None:
        """Tokenise text that is not in the cache, and memory-map it.

        Args:
            stage: Ignored; both sets are read together.

        Raises:
            MissingFileError: If a path does not exist.
            DataError: If there is no text.
        """
        if self.dataset_train is not None:
            return
        if self._text_path() is None:
            size = builtin_size("train")
            why = "no data_path" if self.data_path is None else f"./{DEFAULT_DATA_PATH} does not exist"
            _log.info(
                "%s: the built-in corpus takes its place, %.2f MB in %d documents",
                why,
                size.megabytes,
                size.num_documents,
            )
        train, val = self._sources()
        stream, held_out = open_tokens(self._token_file(train, self._held_out_share()))
        if val is not None:
            held_out, _ = open_tokens(self._token_file(val, 0.0))
        elif not held_out.num_tokens and self.validate_on_training_text:
            _log.info("the best state will be the one of the lowest loss on the training text itself")
            held_out = open_tokens(self._token_file(train, 0.0))[0]
        self.dataset_train = self._windows(stream, "training", random_offset=self.random_offset)
        if held_out.num_tokens:
            self.dataset_val = self._windows(held_out, "validation", random_offset=False)
        elif self.val_fraction:
            _log.warning("the text is too short to hold a part of it out; there is no validation (give val_path)")

    def get_dataset_info(self) -> dict[str, Any]:
        """Describe the training data.

        Returns:
            The entries of every data module, and ``vocab_size``, ``token_counts`` (occurrences of each id in the first
            20 million tokens), ``tokenizer`` (its fingerprint), ``tokenizer_json``, ``num_tokens`` (of a window),
            ``num_documents``, ``num_corpus_tokens`` and ``padding_share`` of the training windows.
        """
        info = super().get_dataset_info()
        windows: Windows = self.dataset_train
        return {
            **info,
            "vocab_size": self.tokenizer.vocab_size,
            "token_counts": self._token_counts(windows.stream),
            "tokenizer": self.tokenizer.fingerprint,
            "tokenizer_json": self.tokenizer.to_json() if hasattr(self.tokenizer, "to_json") else None,
            "num_tokens": self.num_tokens,
            "num_documents": windows.stream.num_documents,
            "num_corpus_tokens": windows.stream.num_tokens,
            "padding_share": windows.num_padding / (len(windows) * self.num_tokens),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the data, the settings of the windows, and whether the corpus is built in."""
        return {**super().state_dict(), _STATE: {**self._window_settings(), _BUILTIN: self._text_path() is None}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the position for the next training loader.

        Args:
            state_dict: State of :meth:`state_dict`.

        Raises:
            CheckpointError: If the windows had other settings, such as another tokenizer.
        """
        state = dict(state_dict)
        saved, present = state.pop(_STATE, {}), self._window_settings()
        differing = [key for key in present if key in saved and saved[key] != present[key]]
        if differing:
            changes = ", ".join(f"{key} {saved[key]!s:.12} (now {present[key]!s:.12})" for key in differing)
            raise CheckpointError(f"the checkpoint was trained with {changes}; use the same, or start a new run")
        super().load_state_dict(state)

    def _token_counts(self, stream: TokenStream) -> list[int]:
        """Count each token in the beginning of the training text, shape ``(vocab_size,)``."""
        return np.bincount(stream.ids[:_MAX_COUNTED_TOKENS], minlength=self.tokenizer.vocab_size).tolist()

    def _window_settings(self) -> dict[str, Any]:
        return {
            "tokenizer": self.tokenizer.fingerprint,
            "num_tokens": self.num_tokens,
            "pack": self.pack,
            "random_offset": self.random_offset,
        }

    def _held_out_share(self) -> float:
        return 0.0 if self._text_path() is None or self.val_path is not None else self.val_fraction

    def _text_path(self) -> Path | None:
        """Path of the training text; None for the built-in corpus."""
        if self.data_path is None:
            return None
        path = user_path(self.data_path)
        return None if path == DEFAULT_DATA_PATH and not path.exists() else path

    def _training_text(self) -> Iterable[str]:
        path = self._text_path()
        return builtin_documents("train") if path is None else TextFiles(path, encoding=self.encoding).texts()

    def _sources(self) -> tuple[TextSource, TextSource | None]:
        """Return the training and validation texts; None for a validation text that is split off from the first."""
        val = None if self.val_path is None else TextFiles(self.val_path, encoding=self.encoding)
        path = self._text_path()
        if path is not None:
            return TextFiles(path, encoding=self.encoding), val
        train = TextList(builtin_documents("train"))
        if val is not None or not self.val_fraction:
            return train, val
        return train, TextList(builtin_documents("held_out"))

    def _token_file(self, source: TextSource, val_fraction: float) -> Path:
        """Return the file of a source's tokens, written if missing."""
        # Before the tokenizer, which may have to be trained: a folder without write permission is reported first.
        self._cache.make_folder()
        return self._cache.file(source, self.tokenizer, val_fraction)

    def _windows(self, stream: TokenStream, what: str, *, random_offset: bool) -> Windows:
        pad_id = self.tokenizer.pad_id
        windows: Windows
        if self.pack:
            windows = PackedWindows(stream, self.num_tokens, pad_id, random_offset=random_offset)
            how = "packed"
        else:
            windows = DocumentWindows(stream, self.num_tokens, pad_id, random_offset=random_offset)
            how = f"{windows.num_split} longer than a window and split"
        _log.info(
            "%s text: %d documents (%s), %d tokens in %d windows of %d, %.1f %% padding",
            what,
            stream.num_documents,
            how,
            stream.num_tokens,
            len(windows),
            self.num_tokens,
            100 * windows.num_padding / (len(windows) * self.num_tokens),
        )
        return windows

    def _seeded(self, dataset: Any, seed: int) -> Any:
        # The base class passes only the index to a data set that is read in batches; a window also depends on the
        # epoch.
        return EpochWindows(dataset, seed)


def on_builtin_corpus(checkpoint: dict[str, Any]) -> bool | None:
    """Whether a checkpoint was trained on the built-in corpus; None if its data module's state does not say."""
    state = checkpoint.get(TextDataModule.__qualname__)
    cut = state.get(_STATE) if isinstance(state, dict) else None
    return cut.get(_BUILTIN) if isinstance(cut, dict) else None
