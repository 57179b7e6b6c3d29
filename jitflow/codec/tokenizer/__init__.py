"""Text as token ids, and back: bytes, byte-pair encoding, or any local Hugging Face folder."""

from jitflow.codec.tokenizer.base import Tokenizer
from jitflow.codec.tokenizer.bpe import train_bpe
from jitflow.codec.tokenizer.byte import ByteTokenizer
from jitflow.codec.tokenizer.create import make_tokenizer, tokenizer_from_json
from jitflow.codec.tokenizer.folder import changed_texts, load_tokenizer
from jitflow.codec.tokenizer.subword import SubwordTokenizer

__all__ = [
    "ByteTokenizer",
    "SubwordTokenizer",
    "Tokenizer",
    "changed_texts",
    "load_tokenizer",
    "make_tokenizer",
    "tokenizer_from_json",
    "train_bpe",
]
