"""Colours name tokens exactly, and tolerate the noise that their spacing promises."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jitflow.apps.text.codewords import LENGTH, MIN_DISTANCE, codewords, generator_matrix
from jitflow.apps.text.colour import MAPPINGS, ColourCodec
from jitflow.errors import ConfigError

VOCABULARIES = (1, 2, 256, 259, 4096, 50257, 151_670)


def test_the_code_is_the_extended_quadratic_residue_code():
    matrix = generator_matrix()
    assert matrix.shape == (24, 48)
    # Self-dual: every word is orthogonal to every other.
    assert not ((matrix @ matrix.T) % 2).any()
    generator = torch.Generator().manual_seed(1)
    messages = torch.randint(0, 2, (200_000, 24), generator=generator)
    weights = (messages.float() @ matrix.float()).remainder(2).sum(dim=1)
    # Doubly even, and no word but 0 lighter than 12.
    assert not (weights % 4).any()
    assert weights[weights > 0].min() == MIN_DISTANCE
    # The lightest words are among sums of few rows, if anywhere.
    pairs = (matrix[:, None] + matrix[None]) % 2
    assert int(pairs.sum(-1)[~torch.eye(24, dtype=bool)].min()) >= MIN_DISTANCE


@pytest.mark.parametrize("count", [2, 259, 4096])
def test_words_are_apart(count):
    words = codewords(count, seed=3)
    distances = (LENGTH - words @ words.T) / 2 + LENGTH * torch.eye(count)
    assert float(distances.min()) >= MIN_DISTANCE
    assert torch.equal(codewords(count + 5, seed=3)[:count], words)
    assert not torch.equal(codewords(count, seed=4), words)


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("vocab_size", VOCABULARIES)
def test_every_id_comes_back(mapping, vocab_size):
    codec = ColourCodec(vocab_size, mapping, img_size=32)
    # Every id of a small vocabulary; of a large one the ends and a sample.
    every = torch.arange(vocab_size)
    if mapping == "codebook" and vocab_size > 5000:
        middle = torch.randint(0, vocab_size, (500,), generator=torch.Generator().manual_seed(0))
        every = torch.cat([every[:5], middle, every[-5:]])
    count = -(-len(every) // codec.num_tokens)
    ids = every.repeat(-(-count * codec.num_tokens // len(every)))[: count * codec.num_tokens].view(count, -1)
    for part in ids.split(64):
        image = codec.encode(part)
        assert image.shape == (len(part), 3, 32, 32) and image.abs().max() <= 1
        assert torch.equal(codec.tokens(image), part)
        assert codec.distance(image).max() < 1e-6


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_ids_survive_the_trip_through_uint8_pixels(mapping):
    codec = ColourCodec(50257, mapping, img_size=16)
    ids = torch.randint(0, 50257, (2, codec.num_tokens), generator=torch.Generator().manual_seed(0))
    pixels = codec.decode(codec.encode(ids))
    assert torch.equal(codec.tokens(pixels.float() / 127.5 - 1), ids)


def test_base256_is_the_documented_mapping():
    codec = ColourCodec(1 << 24, "base256", img_size=2)
    ids = torch.tensor([[0, 255, 256 * 7 + 3, 65536 * 200 + 256 * 100 + 50]])
    pixels = codec.decode(codec.encode(ids))
    assert pixels[0, :, 0, 0].tolist() == [0, 0, 0]
    assert pixels[0, :, 0, 1].tolist() == [255, 0, 0]
    assert pixels[0, :, 1, 0].tolist() == [3, 7, 0]
    assert pixels[0, :, 1, 1].tolist() == [50, 100, 200]


def test_the_first_token_is_the_top_left_patch_and_the_second_is_to_its_right():
    codec = ColourCodec(300, "codebook", img_size=64)
    assert codec.num_tokens == 256
    ids = torch.zeros(1, 256, dtype=torch.int64)
    ids[0, 1] = 5
    changed = (codec.encode(ids) != codec.encode(torch.zeros_like(ids))).any(dim=1)[0]
    rows, columns = changed.nonzero(as_tuple=True)
    assert rows.max() < 4 and columns.min() >= 4 and columns.max() < 8


@pytest.mark.parametrize(
    ("mapping", "vocab_size", "sigma"),
    # Standard deviations of noise, in units of [-1, 1], at which 99.9 % of the tokens are still read.
    [("base256", 4096, 0.0011), ("lattice", 4096, 0.0187), ("codebook", 256, 0.95), ("codebook", 4096, 0.88)],
)
def test_noise_is_tolerated_as_promised(mapping, vocab_size, sigma):
    codec = ColourCodec(vocab_size, mapping, img_size=64)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocab_size, (40 if mapping == "codebook" else 4, codec.num_tokens), generator=generator)
    image = codec.encode(ids)
    noisy = image + sigma * torch.randn(image.shape, generator=generator)
    assert (codec.tokens(noisy) == ids).float().mean() > 0.997
    far = image + 2 * sigma * torch.randn(image.shape, generator=generator)
    assert (codec.tokens(far) == ids).float().mean() < 0.97


def test_values_out_of_range_are_clipped_not_wrapped():
    for mapping in ("lattice", "base256"):
        codec = ColourCodec(4096, mapping, img_size=4)
        ids = torch.arange(16).view(1, -1)
        image = codec.encode(ids)
        pushed = torch.where(image <= -1, image - 0.5, image)
        assert torch.equal(codec.tokens(pushed), ids)


def test_a_large_batch_is_read_like_a_small_one():
    codec = ColourCodec(500, "codebook", img_size=64)
    ids = torch.randint(0, 500, (20, 256), generator=torch.Generator().manual_seed(0))
    noisy = codec.encode(ids) + 0.8 * torch.randn(20, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(codec.tokens(noisy), torch.cat([codec.tokens(part) for part in noisy.split(1)]))


@given(st.sampled_from(MAPPINGS), st.integers(2, 60_000), st.integers(0, 2**31), st.data())
@settings(max_examples=40, deadline=None)
def test_any_ids_of_any_vocabulary(mapping, vocab_size, seed, data):
    codec = ColourCodec(vocab_size, mapping, img_size=8, seed=seed)
    ids = data.draw(st.lists(st.integers(0, vocab_size - 1), min_size=codec.num_tokens, max_size=codec.num_tokens))
    ids = torch.tensor([ids])
    assert torch.equal(ColourCodec(**codec.settings()).tokens(codec.encode(ids)), ids)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ColourCodec((1 << 24) + 1), "at most 16777216 tokens"),
        (lambda: ColourCodec(10, "code"), "codebook"),
        (lambda: ColourCodec(10, "codebook", img_size=10), "multiple of 4"),
        (lambda: ColourCodec(0), "positive"),
        (lambda: ColourCodec(10, img_size=8).encode(torch.full((1, 4), 10)), r"\[0, 10\)"),
        (lambda: ColourCodec(10, img_size=8).encode(torch.full((1, 4), -1)), r"\[0, 10\)"),
        (lambda: ColourCodec(10, img_size=8).encode(torch.zeros(1, 5, dtype=torch.int64)), r"shape \(B, 4\)"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
