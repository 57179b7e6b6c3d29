"""Tokenizers: bytes, byte-pair encoding, or any local Hugging Face folder."""

from jitflow.apps.text.tokenizer.base import Tokenizer
from jitflow.apps.text.tokenizer.bpe import train_bpe
from jitflow.apps.text.tokenizer.byte import ByteTokenizer
from jitflow.apps.text.tokenizer.create import make_tokenizer, read_or_learn, tokenizer_from_json
from jitflow.apps.text.tokenizer.folder import changed_texts, load_tokenizer
from jitflow.apps.text.tokenizer.subword import SubwordTokenizer

__all__ = [
    "ByteTokenizer",
    "SubwordTokenizer",
    "Tokenizer",
    "changed_texts",
    "load_tokenizer",
    "make_tokenizer",
    "read_or_learn",
    "tokenizer_from_json",
    "train_bpe",
]
