"""Cache of tokenised text: a file for each text and tokenizer, written when it is first asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from jitflow.apps.text.token_store import Progress, TextEncoder, TextSource, store_name, write_tokens
from jitflow.io.files import writable_folder
from jitflow.io.progress import Meter, meter


class TokenCache:
    """Folder of token files.

    Args:
        folder: The folder, shared with other runs and processes; None for a temporary one of this process.
        progress: Called during tokenisation with the amount read so far and the total; None shows a bar.
    """

    def __init__(self, folder: str | Path | None, progress: Progress | None = None) -> None:
        self.folder = folder
        self.progress = progress
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @property
    def is_shared(self) -> bool:
        """Whether other processes find the files, too."""
        return self.folder is not None

    def make_folder(self) -> Path:
        """Make the folder if it is not there; raise ConfigError if it cannot be written to."""
        if self.folder is not None:
            return writable_folder(self.folder)
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="jitflow-tokens-")
        return Path(self._temporary.name)

    def file(self, source: TextSource, tokenizer: TextEncoder, val_fraction: float) -> Path:
        """Return the file of a text's tokens, written if missing.

        Args:
            source: The text.
            tokenizer: Turns it into token ids.
            val_fraction: Share of the documents that is held out.
        """
        path = self.make_folder() / store_name(source, tokenizer, val_fraction)
        if not path.is_file():
            with nullcontext(self.progress) if self.progress is not None else _progress_bars() as progress:
                write_tokens(path, source, tokenizer, val_fraction=val_fraction, progress=progress)
        return path


@contextmanager
def _progress_bars() -> Iterator[Progress]:
    """Yield a progress callback that shows a bar for each text."""
    with ExitStack() as stack:
        shown: list[Meter] = []

        def update(done: int, total: int) -> None:
            if not shown or shown[0].total != total:
                stack.close()
                shown[:] = [stack.enter_context(meter("tokenising", total, unit="bytes"))]
            shown[0].update(done)

        yield update
