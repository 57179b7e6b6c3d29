"""The reader without context against the normal density token by token, a closed form and known accuracies."""

import math
from pydoc_data.topics import topics

import pytest
import torch

from jitflow.apps.text import baselines as module
from jitflow.apps.text.baselines import (
    context_free_accuracy,
    context_free_scores,
    time_nearest_half,
    unigram_accuracy,
    unigram_probabilities,
)
from jitflow.apps.text.colour import ColourCodec
from jitflow.core.seeding import noise_from_seeds
from jitflow.errors import ConfigError, DataError

MAPPINGS = ["codebook", "lattice", "base256"]


def uniform(vocab_size):
    return torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)


def draw(prior, codec, rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(prior, rows * codec.num_tokens, True, generator=generator).view(rows, -1)


def place(x, i, codec):
    """Colours of the i-th token of images, cut out by hand."""
    side = 4 if codec.mapping == "codebook" else 1
    row, column = divmod(i, codec.img_size // side)
    return x[:, :, row * side : (row + 1) * side, column * side : (column + 1) * side].flatten(1)


def by_density(codec, ids, t, prior, noise_scale, seeds, mask):
    """Bayes' rule with the density of the normal distribution, one place at a time."""
    x_t = t * codec.encode(ids).double() + (1 - t) * noise_scale * noise_from_seeds(codec.shape, seeds).double()
    images = torch.cat([codec.encode(torch.full((1, codec.num_tokens), k)).double() for k in range(codec.vocab_size)])
    right, nats = [], []
    for i in range(codec.num_tokens):
        normal = torch.distributions.Normal(t * place(images, i, codec), (1 - t) * noise_scale)
        density = normal.log_prob(place(x_t, i, codec)[:, None]).sum(dim=2)
        posterior = (prior.log() + density).log_softmax(dim=1)
        for row in range(len(ids)):
            if mask[row, i]:
                right.append(int(posterior[row].argmax()) == int(ids[row, i]))
                nats.append(-float(posterior[row, ids[row, i]]))
    return sum(right) / len(right), sum(nats) / len(nats)


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("part", [1 << 15, 7], ids=["one part", "many parts"])
def test_equals_the_density(mapping, part, monkeypatch):
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", part)
    monkeypatch.setattr(module, "TABLE_ENTRIES", 100)
    codec = ColourCodec(270 if mapping == "base256" else 30, mapping, img_size=8)
    prior = 1 / (torch.arange(codec.vocab_size).double().flip(0) + 1)
    prior /= prior.sum()
    ids = draw(prior, codec, 3)
    mask = torch.rand(ids.shape, generator=torch.Generator().manual_seed(5)) < 0.8
    t, noise_scale, seeds = (0.25 if mapping == "codebook" else 0.8), 1.3, [3, 5, 8]
    expected = by_density(codec, ids, t, prior, noise_scale, seeds, mask)
    # Where all or nothing is read, many a wrong formula agrees.
    assert 0.05 < expected[0] < 0.95
    scores = context_free_scores(codec, ids, t, prior, noise_scale=noise_scale, seeds=seeds, mask=mask)
    assert scores == pytest.approx(expected, rel=1e-6)
    assert context_free_accuracy(codec, ids, t, prior, noise_scale=noise_scale, seeds=seeds, mask=mask) == scores[0]


def test_two_tokens_have_a_closed_form():
    codec = ColourCodec(2)
    ids, t, noise_scale = draw(uniform(2), codec, 60), 0.15, 1.5
    distance = float((codec.encode(torch.tensor([[0] * 256])) - codec.encode(torch.tensor([[1] * 256])))[0].norm()) / 16
    expected = 0.5 * math.erfc(-t * distance / 2 / ((1 - t) * noise_scale) / math.sqrt(2))
    found = context_free_accuracy(codec, ids, t, uniform(2), noise_scale=noise_scale, seeds=range(60))
    assert 0.6 < expected < 0.9
    assert found == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / ids.numel()))


@pytest.mark.parametrize(
    ("vocab_size", "mapping", "blind_below", "trivial_above"),
    [
        (256, "codebook", 0.14, 0.41),
        (4096, "codebook", 0.23, 0.45),
        (256, "lattice", 0.64, 0.93),
        (4096, "lattice", 0.86, 0.97),
    ],
)
def test_where_reading_begins_and_where_it_is_trivial(vocab_size, mapping, blind_below, trivial_above):
    # Times at which a uniform vocabulary is read to 5 % and to 95 %, computed elsewhere to two digits.
    codec = ColourCodec(vocab_size, mapping, img_size=64 if mapping == "codebook" else 32)
    ids = draw(uniform(vocab_size), codec, 4 if mapping == "codebook" else 1)
    early, late = (
        context_free_accuracy(codec, ids, t, uniform(vocab_size), seeds=range(len(ids)))
        for t in (blind_below, trivial_above)
    )
    assert 0.02 < early < 0.09
    assert 0.91 < late < 0.99


def test_natural_priors_are_half_read_at_the_known_times_and_wholly_at_one_half():
    documentation = "".join(topics.values()).encode()
    english = unigram_probabilities(torch.frombuffer(bytearray(documentation), dtype=torch.uint8), 256)
    zipf = 1 / (torch.arange(4096).double() + 2.7)
    for prior, t in ((english, 0.2), (zipf / zipf.sum(), 0.3)):
        codec = ColourCodec(len(prior))
        ids = draw(prior, codec, 4)
        half, whole = (context_free_accuracy(codec, ids, u, prior, seeds=range(4)) for u in (t, 0.5))
        assert 0.35 < half < 0.5
        assert whole > 0.99


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_noise_alone_leaves_the_prior_and_clean_colours_leave_no_doubt(mapping):
    codec = ColourCodec(50, mapping, img_size=16)
    ids = draw(uniform(50), codec, 2)
    prior = unigram_probabilities(torch.tensor([3, 3, 3, 4]), 50)
    blind = context_free_scores(codec, ids, 0.0, prior, seeds=[0, 1])
    assert blind.accuracy == unigram_accuracy(ids, prior)
    assert blind.cross_entropy == pytest.approx(-float(prior[ids].log().mean()))
    assert context_free_scores(codec, ids, 1.0, prior, seeds=[0, 1]) == (1.0, 0.0)
    assert context_free_scores(codec, ids, 1 - 1e-7, prior, seeds=[0, 1]) == pytest.approx((1.0, 0.0))


def test_a_token_that_the_prior_excludes_is_never_read():
    codec = ColourCodec(3, img_size=8)
    ids = torch.tensor([[0, 1, 2, 2]])
    prior = torch.tensor([0.5, 0.5, 0.0])
    for t in (0.999, 1.0):
        assert context_free_scores(codec, ids, t, prior, seeds=[0]) == (0.5, math.inf)


def test_seeds_name_the_noise():
    codec = ColourCodec(256, "lattice", img_size=32)
    ids = draw(uniform(256), codec, 2)
    first, again, other = (
        context_free_scores(codec, ids, 0.7, uniform(256), seeds=seeds) for seeds in ([1, 2], [1, 2], [3, 4])
    )
    assert first == again != other


def test_unigrams_by_hand():
    ids = torch.tensor([[0, 2], [2, 2]])
    prior = unigram_probabilities(ids, 4, smoothing=1.0)
    assert prior.tolist() == [0.25, 0.125, 0.5, 0.125]
    assert unigram_probabilities(ids, 4, smoothing=0).tolist() == [0.25, 0, 0.75, 0]
    assert unigram_accuracy(torch.tensor([[2, 0, 2], [1, 1, 1]]), prior) == pytest.approx(1 / 3)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert unigram_accuracy(torch.tensor([[2, 0, 2], [1, 1, 1]]), prior, mask) == 0.5


def test_time_nearest_half():
    assert time_nearest_half({0.3: 0.77, 0.1: 0.2, 0.2: 0.42}) == 0.2
    assert time_nearest_half({0.4: 0.75, 0.2: 0.25}) == 0.2
    with pytest.raises(DataError, match="at any time"):
        time_nearest_half({})


def test_bad_input():
    codec = ColourCodec(4, img_size=8)
    ids, prior = torch.tensor([[0, 1, 2, 3]]), uniform(4)
    for bad in ({"t": 1.1}, {"t": -0.1}, {"noise_scale": 0.0}):
        with pytest.raises(ConfigError, match="noise_scale"):
            context_free_scores(**{"codec": codec, "ids": ids, "t": 0.5, "prior": prior, "seeds": [0], **bad})
    with pytest.raises(ConfigError, match=r"shape \(4,\)"):
        context_free_scores(codec, ids, 0.5, uniform(5), seeds=[0])
    with pytest.raises(ConfigError, match="negative"):
        context_free_scores(codec, ids, 0.5, torch.tensor([0.5, -0.1, 0.3, 0.3]), seeds=[0])
    with pytest.raises(ConfigError, match="2 seeds were given for 1"):
        context_free_scores(codec, ids, 0.5, prior, seeds=[0, 1])
    with pytest.raises(ConfigError, match="mask"):
        context_free_scores(codec, ids, 0.5, prior, seeds=[0], mask=torch.ones(4, dtype=torch.bool))
    with pytest.raises(DataError, match="no token counts"):
        context_free_scores(codec, ids, 0.5, prior, seeds=[0], mask=torch.zeros_like(ids, dtype=torch.bool))
    with pytest.raises(ConfigError, match=r"\[0, 3\); got 0 to 3"):
        unigram_probabilities(ids, 3)
    with pytest.raises(ConfigError, match="smoothing"):
        unigram_probabilities(ids, 4, -1)
    with pytest.raises(DataError, match="no tokens"):
        unigram_probabilities(ids[:0], 4, 0)
