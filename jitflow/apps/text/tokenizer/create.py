"""Create tokenizers by name or from a checkpoint."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from jitflow.apps.text.tokenizer.base import Tokenizer
from jitflow.apps.text.tokenizer.bpe import train_bpe
from jitflow.apps.text.tokenizer.byte import ByteTokenizer
from jitflow.apps.text.tokenizer.folder import load_tokenizer
from jitflow.apps.text.tokenizer.subword import SubwordTokenizer, tokenizers_library
from jitflow.errors import CheckpointError, ConfigError, unknown_name
from jitflow.io.files import user_path, write_text
from jitflow.io.json_text import parse_json

# Samples of the user's texts, to test whether a folder's tokenizer reproduces them.
_NUM_SAMPLE_TEXTS = 50
_SAMPLE_CHARACTERS = 10_000
_FIELDS = {"definition": str, "end_id": int, "pad_id": int, "name": str}


def make_tokenizer(spec: str, texts: Iterable[str] = ()) -> Tokenizer:
    """Create a tokenizer by name.

    Args:
        spec: ``"bytes"``; ``"bpe"`` or ``"bpe:4096"``, trained on the texts; or a local folder with a
            ``tokenizer.json``.
        texts: The training texts; read only as far as needed.

    Returns:
        The tokenizer.

    Raises:
        ConfigError: If the name is unknown, or the tokenizer cannot be created.
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
    if user_path(spec).exists() or "/" in spec or "\\" in spec:
        sample = (text[:_SAMPLE_CHARACTERS] for text in itertools.islice(texts, _NUM_SAMPLE_TEXTS))
        return load_tokenizer(spec, sample=sample)
    raise unknown_name("tokenizer", spec, ("bytes", "bpe"), hint="A size can follow (bpe:4096); a path names a folder.")


def tokenizer_from_json(text: str) -> Tokenizer:
    """Create a tokenizer from the definition of its ``to_json``.

    Args:
        text: The definition.

    Returns:
        The tokenizer, with the same fingerprint.

    Raises:
        CheckpointError: If the definition is damaged or of an unknown kind.
        ConfigError: If it needs the ``tokenizers`` library, which is missing.
    """
    damaged = CheckpointError("the tokenizer in the checkpoint is damaged; use another checkpoint")
    try:
        content = parse_json(text)
        kind = content["kind"]
        fields = {key: content[key] for key in _FIELDS} if kind == "subword" else {}
    except (ValueError, KeyError, TypeError):
        raise damaged from None
    if kind == "bytes":
        return ByteTokenizer()
    if kind != "subword":
        raise CheckpointError(f"the tokenizer in the checkpoint is of the unknown kind {kind!r}; update jitflow")
    if any(type(fields[key]) is not kind for key, kind in _FIELDS.items()):
        raise damaged
    tokenizers_library()  # raises ConfigError if the library is missing, which is not damage
    try:
        return SubwordTokenizer(**fields)
    except ConfigError:
        raise damaged from None


def read_or_learn(spec: str, texts: Callable[[], Iterable[str]], *, cache_dir: str | Path | None = None) -> Tokenizer:
    """Create a tokenizer from its JSON or by name; a trained one is cached.

    Args:
        spec: Result of ``to_json``, or a name as in :func:`make_tokenizer`.
        texts: Returns the training texts; called only if needed.
        cache_dir: Folder that caches a trained tokenizer, named after its spec and the text.

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
