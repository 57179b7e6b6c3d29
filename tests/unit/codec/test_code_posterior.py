"""Probabilities of codewords: the exact Bayes posterior where the network is silent, and losses that name the token."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from jitflow.apps.text.code_posterior import CodePosterior, digit_cross_entropy
from jitflow.apps.text.colour import ColourCodec, split_patches
from jitflow.core.path import interpolate
from jitflow.errors import ConfigError

V = 259


@pytest.fixture
def codec():
    return ColourCodec(V, "codebook", img_size=16)


def noisy(codec, t, noise_scale=1.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(V, (len(t), codec.num_tokens), generator=g)
    noise = noise_scale * torch.randn(len(t), *codec.shape, generator=g)
    return ids, interpolate(noise, codec.encode(ids), t)


def bayes(codec, x_t, t, noise_scale):
    """Posterior of each place under a uniform prior, from the densities themselves."""
    patches = split_patches(x_t).double()
    codes = codec.codes().double()
    density = torch.stack(
        [
            Normal(s * codes[None], (1 - s) * noise_scale).log_prob(p[:, None]).sum(-1)
            for p, s in zip(patches, t.double(), strict=True)
        ]
    )
    return density.softmax(dim=-1)


@pytest.mark.parametrize("noise_scale", [0.5, 1.0, 2.0])
def test_without_a_word_from_the_network_it_is_the_posterior_of_the_place(codec, noise_scale):
    t = torch.tensor([0.0, 0.05, 0.1, 0.2, 0.25])
    _, x_t = noisy(codec, t, noise_scale)
    logits = CodePosterior(codec, noise_scale=noise_scale).logits(torch.zeros_like(x_t), x_t, t)
    assert logits.shape == (5, 16, V) and logits.dtype == torch.float32
    torch.testing.assert_close(logits.softmax(-1).double(), bayes(codec, x_t, t, noise_scale), atol=2e-5, rtol=1e-3)
    assert torch.equal(logits[0], torch.zeros_like(logits[0]))


def test_late_evidence_is_bounded_and_still_certain(codec):
    t = torch.tensor([0.6, 0.9, 0.999, 1.0])
    ids, x_t = noisy(codec, t)
    logits = CodePosterior(codec).logits(torch.zeros_like(x_t), x_t, t)
    assert logits.isfinite().all()
    # Twice the 48 signs, and what noise adds.
    assert logits.abs().max() < 2 * 48 * 1.5
    assert torch.equal(logits.argmax(-1), ids)
    assert logits.softmax(-1).amax(-1).min() > 0.99


def test_the_output_adds_what_other_places_say(codec):
    t = torch.tensor([0.1])
    ids, x_t = noisy(codec, t)
    wanted = (ids + 7) % V
    posterior = CodePosterior(codec)
    silent = posterior.logits(torch.zeros_like(x_t), x_t, t)
    told = posterior.logits(0.5 * codec.encode(wanted), x_t, t)
    torch.testing.assert_close(told - silent, 0.5 * codec.codes()[wanted] @ codec.codes().T)


def test_the_expected_image_is_the_average_of_codewords(codec):
    ids = torch.tensor([list(range(16))])
    certain = torch.nn.functional.one_hot(ids, V).float().log()
    posterior = CodePosterior(codec)
    torch.testing.assert_close(posterior.expected_image(certain), codec.encode(ids))
    between = torch.full((1, 16, V), -math.inf)
    between[..., 3], between[..., 5] = math.log(0.25), math.log(0.75)
    both = [codec.encode(torch.full((1, 16), i)) for i in (3, 5)]
    torch.testing.assert_close(posterior.expected_image(between), 0.25 * both[0] + 0.75 * both[1])


def test_half_precision_around_it_changes_nothing(codec):
    t = torch.tensor([0.3, 0.7])
    _, x_t = noisy(codec, t)
    output = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(1))
    posterior = CodePosterior(codec)
    logits = posterior.logits(output, x_t, t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = posterior.logits(output, x_t, t)
        image = posterior.expected_image(inside)
    assert inside.dtype == image.dtype == torch.float32
    assert torch.equal(inside, logits)
    assert torch.equal(image, posterior.expected_image(logits))


def test_cross_entropy_is_the_log_probability_of_the_truth(codec):
    g = torch.Generator().manual_seed(0)
    logits, ids = torch.randn(2, 16, V, generator=g), torch.randint(V, (2, 16), generator=g)
    wanted = -logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    torch.testing.assert_close(CodePosterior.cross_entropy(logits, ids), wanted)
    flat = CodePosterior.cross_entropy(torch.zeros(2, 16, V), ids)
    torch.testing.assert_close(flat, torch.full((2, 16), math.log(V)))


def test_only_a_codebook_has_codewords():
    with pytest.raises(ConfigError, match="codebook"):
        CodePosterior(ColourCodec(V, "lattice", 4))


@pytest.mark.parametrize("mapping", ["lattice", "base256"])
def test_digits_of_the_right_image_are_certain_late(mapping):
    codec = ColourCodec(V, mapping, img_size=4)
    ids = torch.arange(32).view(2, 16) * 8
    t = torch.tensor([0.9999, 1.0])
    x1 = codec.encode(ids)
    nats = digit_cross_entropy(codec, x1, t, ids)
    assert nats.shape == ids.shape
    assert float(nats.max()) < 0.01
    wrong = digit_cross_entropy(codec, codec.encode(ids + 1), t, ids)
    # The neighbouring level is exp(-8) times as likely.
    assert float(wrong.min()) > 7.9


@pytest.mark.parametrize("noise_scale", [1.0, 2.0])
def test_digits_early_are_judged_as_broadly_as_the_noise_asks(noise_scale):
    codec = ColourCodec(V, "base256", img_size=4)
    ids = torch.full((1, 16), 200)
    t = torch.tensor([0.25])
    x1_pred = torch.full((1, 3, 4, 4), 0.1)
    nats = digit_cross_entropy(codec, x1_pred, t, ids, noise_scale=noise_scale)
    # Noise of (1 - t) / t data units meets values of variance 1/3.
    variance = 1 / (1 / (3 * noise_scale) ** 2 + 3)
    levels = torch.linspace(-1, 1, 256)
    log_prob = (-((0.1 - levels) ** 2) / (2 * variance)).log_softmax(0)
    wanted = -(log_prob[200] + 2 * log_prob[0])
    torch.testing.assert_close(nats, torch.full((1, 16), float(wanted)))
    # Of the order of a guess, not of the number of levels squared.
    assert float(nats.max()) < 3 * math.log(256) * 1.5


def test_each_digit_is_judged_by_its_own_channel():
    codec = ColourCodec(70_000, "base256", img_size=2)
    ids = torch.tensor([[1 + 2 * 256 + 65536] * 4])
    x1, t = codec.encode(ids), torch.ones(1)
    base = float(digit_cross_entropy(codec, x1, t, ids).sum())
    for channel in range(3):
        moved = x1.clone()
        moved[:, channel, 0, 0] += 2 / 255
        changed = digit_cross_entropy(codec, moved, t, ids)
        assert float(changed[0, 0]) > 7.9
        assert float(changed.sum()) - float(changed[0, 0]) == pytest.approx(base * 3 / 4, rel=1e-3, abs=1e-6)
