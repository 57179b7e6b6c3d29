"""Load a tokenizer from a local Hugging Face folder, without downloads or running its code."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jitflow.apps.text.tokenizer.base import Tokenizer
from jitflow.apps.text.tokenizer.probe import SAMPLE_TEXTS
from jitflow.apps.text.tokenizer.subword import SubwordTokenizer
from jitflow.errors import ConfigError, MissingFileError
from jitflow.io.files import read_json, user_path
from jitflow.io.plain_values import well_formed

_log = logging.getLogger(__name__)

_DEFINITION = "tokenizer.json"
# Earlier files take precedence.
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
# Files of other layouts, without a tokenizer.json.
_OTHER_LAYOUTS = ("vocab.json", "merges.txt", "vocab.txt", "*.model", "*.tiktoken")


def load_tokenizer(path: str | Path, *, sample: Iterable[str] = ()) -> SubwordTokenizer:
    """Load the tokenizer of a local folder.

    The end and the padding token are those of ``tokenizer_config.json`` or ``special_tokens_map.json``; a missing one
    is appended to the vocabulary. A warning is logged if texts change in a round trip.

    Args:
        path: Folder with a ``tokenizer.json``, or that file.
        sample: Texts to test the round trip, in addition to built-in ones.

    Returns:
        The tokenizer.

    Raises:
        MissingFileError: If there is no such folder.
        ConfigError: If it has no ``tokenizer.json`` (the message says how to make one) or a damaged one.
    """
    folder = user_path(path)
    if folder.name == _DEFINITION and folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        raise MissingFileError(f"tokenizer_path {path} is no folder; name a local one that holds {_DEFINITION}")
    file = folder / _DEFINITION
    if not file.is_file():
        raise ConfigError(_no_definition(folder))
    try:
        definition = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not valid UTF-8 ({error})") from None
    name = folder.resolve().name
    try:
        plain = SubwordTokenizer(definition, name=name)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    settings = [read_json(folder / name) for name in _SETTINGS if (folder / name).is_file()]
    end_id, pad_id = (_special_id(plain, settings, kind) for kind in ("eos_token", "pad_token"))
    tokenizer = SubwordTokenizer(definition, end_id=end_id, pad_id=pad_id, name=name)
    _warn_if_not_invertible(tokenizer, [*SAMPLE_TEXTS, *sample])
    return tokenizer


def changed_texts(tokenizer: Tokenizer, texts: Iterable[str]) -> list[tuple[str, str]]:
    """Return the texts that change in a tokenizer's round trip, each with its decoded version."""
    pairs = ((text, tokenizer.decode(tokenizer.encode(text))) for text in map(well_formed, texts))
    return [(text, back) for text, back in pairs if text != back]


def _special_id(tokenizer: SubwordTokenizer, settings: list[Any], kind: str) -> int | None:
    for setting in settings:
        token = setting.get(kind) if isinstance(setting, dict) else None
        if isinstance(token, dict):
            token = token.get("content")
        if isinstance(token, str) and (found := tokenizer.token_id(token)) is not None:
            return found
    return None


def _no_definition(folder: Path) -> str:
    found = sorted({file.name for pattern in _OTHER_LAYOUTS for file in folder.glob(pattern)})
    if found:
        return (
            f"tokenizer_path {folder} has {', '.join(found)} but no {_DEFINITION}; write one with the transformers "
            f"library: AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )
    return f"tokenizer_path {folder} has no {_DEFINITION}; a Hugging Face tokenizer folder holds one"


def _warn_if_not_invertible(tokenizer: SubwordTokenizer, texts: list[str]) -> None:
    changed = changed_texts(tokenizer, texts)
    if changed:
        text, back = changed[0]
        _log.warning(
            "the tokenizer %s does not give every text back: %d of %d sample texts changed, such as %.40r to %.40r",
            tokenizer.name,
            len(changed),
            len(texts),
            text,
            back,
        )
