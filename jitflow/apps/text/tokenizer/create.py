"""Tokenizers by name, and from a checkpoint."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from jitflow.apps.text.tokenizer.base import Tokenizer
from jitflow.apps.text.tokenizer.bpe import train_bpe
from jitflow.apps.text.tokenizer.byte import ByteTokenizer
from jitflow.apps.text.tokenizer.folder import load_tokenizer
from jitflow.apps.text.tokenizer.subword import SubwordTokenizer, tokenizers_library
from jitflow.errors import CheckpointError, ConfigError, unknown_name
from jitflow.io.files import write_text

# Of the user's texts, to see whether a folder's tokenizer gives them back.
_NUM_SAMPLE_TEXTS = 50
_SAMPLE_CHARACTERS = 10_000
_FIELDS = {"definition": str, "end_id": int, "pad_id": int, "name": str}


def make_tokenizer(spec: str, texts: Iterable[str] = ()) -> Tokenizer:
    """Make the tokenizer that a word names.

    Args:
        spec: ``"bytes"``; ``"bpe"`` or ``"bpe:4096"``, learned from the texts; or a local folder with a
            ``tokenizer.json``.
        texts: The training texts; read only as far as needed.

    Returns:
        The tokenizer.

    Raises:
        ConfigError: If the word is none of these, or the tokenizer cannot be made.
        MissingFileError: If it is a path that does not exist.
        DataError: If there is no text to learn from.
    """
    if spec == "bytes":
        return ByteTokenizer()
    if spec == "bpe":
        return train_bpe(texts)
    if spec.startswith("bpe:"):
        if not re.fullmatch(r"bpe:[0-9]{1,9}", spec):
            raise ConfigError(f"tokenizer {spec!r} must be bpe:<vocabulary size>, such as bpe:4096")
        return train_bpe(texts, int(spec.removeprefix("bpe:")))
    if Path(spec).expanduser().exists() or "/" in spec or "\\" in spec:
        sample = (text[:_SAMPLE_CHARACTERS] for text in itertools.islice(texts, _NUM_SAMPLE_TEXTS))
        return load_tokenizer(spec, sample=sample)
    raise unknown_name("tokenizer", spec, ("bytes", "bpe"), hint="A size can follow (bpe:4096); a path names a folder.")


def tokenizer_from_json(text: str) -> Tokenizer:
    """Make the tokenizer that ``to_json`` wrote.

    Args:
        text: The definition.

    Returns:
        The tokenizer, with the same fingerprint.

    Raises:
        CheckpointError: If the definition is damaged or of an unknown kind.
        ConfigError: If it needs the ``tokenizers`` library and that is missing.
    """
    damaged = CheckpointError("the tokenizer in the checkpoint is damaged; use another checkpoint")
    try:
        content = json.loads(text)
        kind = content["kind"]
        fields = {key: content[key] for key in _FIELDS} if kind == "subword" else {}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise damaged from None
    if kind == "bytes":
        return ByteTokenizer()
    if kind != "subword":
        raise CheckpointError(f"the tokenizer in the checkpoint is of the unknown kind {kind!r}; update jitflow")
    if any(type(fields[key]) is not kind for key, kind in _FIELDS.items()):
        raise damaged
    tokenizers_library()  # a missing library is no damage
    try:
        return SubwordTokenizer(**fields)
    except ConfigError:
        raise damaged from None


def read_or_learn(spec: str, texts: Callable[[], Iterable[str]], *, cache_dir: str | Path | None = None) -> Tokenizer:
    """Make a tokenizer of its JSON or of a word; one that has to be learned is kept for the next time.

    Args:
        spec: What ``to_json`` gave, or a word as in :func:`make_tokenizer`.
        texts: Gives the training texts; called only where they are needed.
        cache_dir: Folder in which a learned tokenizer is kept, named after the word and the text.

    Returns:
        The tokenizer.

    Raises:
        ConfigError: As in :func:`make_tokenizer`.
        CheckpointError: If the JSON is damaged.
    """
    if spec.lstrip().startswith("{"):
        return tokenizer_from_json(spec)
    if spec == "bytes":
        return make_tokenizer(spec)
    if cache_dir is None or not spec.startswith("bpe"):
        return make_tokenizer(spec, texts())
    digest = hashlib.sha256(spec.encode())
    for text in texts():
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    kept = Path(cache_dir) / f"tokenizer-{digest.hexdigest()[:24]}.json"
    if kept.is_file():
        return tokenizer_from_json(kept.read_text(encoding="utf-8"))
    tokenizer = make_tokenizer(spec, texts())
    write_text(kept, tokenizer.to_json())
    return tokenizer
