"""Text to ids to colours to ids to text, exactly, for all mappings and tokenizers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jitflow.apps.text.colour import MAPPINGS, ColourCodec
from jitflow.apps.text.tokenizer import ByteTokenizer, train_bpe

pytest.importorskip("tokenizers")

TOKENIZERS = {"bytes": ByteTokenizer(), "bpe": train_bpe(["the cat sat on the mat, the cat sat"] * 9, 270)}
SIDES = {"codebook": 32, "lattice": 8, "base256": 8}


def through_colours(tokenizer, codec, text):
    """Every image of a text, each filled up with padding, read back."""
    ids = [*tokenizer.encode(text), tokenizer.end_id]
    ids += [tokenizer.pad_id] * (-len(ids) % codec.num_tokens)
    images = codec.encode(torch.tensor(ids).unflatten(0, (-1, codec.num_tokens)))
    assert images.shape[1:] == (3, codec.img_size, codec.img_size)
    assert float(images.abs().max()) <= 1
    found = codec.tokens(images).flatten().tolist()
    assert found == ids
    # And from the picture a person would save.
    pixels = codec.decode(images)
    assert codec.tokens(pixels.float() / 127.5 - 1).flatten().tolist() == ids
    return tokenizer.decode(found)


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=120))
def test_any_text_comes_back_from_its_image(name, mapping, text):
    tokenizer = TOKENIZERS[name]
    codec = ColourCodec(tokenizer.vocab_size, mapping, SIDES[mapping])
    assert through_colours(tokenizer, codec, text) == text


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_page_comes_back_from_full_size_images(name, mapping):
    tokenizer = TOKENIZERS[name]
    page = "The cat sat.\n\0\t漢字 😀 naïve " * 40
    assert through_colours(tokenizer, ColourCodec(tokenizer.vocab_size, mapping, 64), page) == page
