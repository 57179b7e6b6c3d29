"""AutoencoderKL: shapes, the distribution it gives, and its blocks against plain formulas."""

import pytest
import torch
import torch.nn.functional as F

from jitflow.errors import ConfigError
from jitflow.layers.residual import Downsample, ResnetBlock, SpatialAttention, Upsample
from jitflow.nets.autoencoder_kl import AutoencoderKL, GaussianLatents

TINY = {
    "embed_dim": 4,
    "ch": 32,
    "ch_mult": (1, 2),
    "resolution": 16,
    "num_res_blocks": 1,
    "attn_resolutions": [8],
}


def build(**overrides):
    torch.manual_seed(0)
    return AutoencoderKL(**{**TINY, **overrides}).eval().requires_grad_(False)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"ch_mult": [1]},
        {"ch_mult": (1, 1, 2)},
        {"num_res_blocks": 2},
        {"attn_resolutions": []},
        {"attn_resolutions": (16, 8)},
        {"in_channels": 1},
        {"embed_dim": 7},
    ],
)
def test_shapes(overrides):
    vae = build(**overrides)
    x = torch.randn(2, vae.in_channels, 16, 24)
    mean, logvar = vae.encode(x)
    expected = (2, vae.embed_dim, 16 // vae.factor, 24 // vae.factor)
    assert mean.shape == logvar.shape == expected
    assert vae.decode(mean).shape == x.shape
    assert torch.equal(vae(x), vae.decode(mean))
    again = AutoencoderKL(**vae.config)
    again.load_state_dict(vae.state_dict())
    assert torch.equal(again.eval()(x), vae(x))


def test_which_levels_have_attention():
    def levels(vae):
        names = [name.split(".") for name in vae.state_dict() if ".attn." in name]
        return {(parts[0], int(parts[2]), int(parts[4])) for parts in names}

    assert levels(build(attn_resolutions=[])) == set()
    # The decoder has one more block a level, each with its own attention.
    assert levels(build()) == {("encoder", 1, 0), ("decoder", 1, 0), ("decoder", 1, 1)}
    assert levels(build(attn_resolutions=[16])) == {("encoder", 0, 0), ("decoder", 0, 0), ("decoder", 0, 1)}


def test_every_image_is_on_its_own():
    vae = build()
    x = torch.randn(3, 3, 16, 16)
    mean = vae.encode(x).mean
    torch.testing.assert_close(vae.encode(x[1:2]).mean[0], mean[1])
    torch.testing.assert_close(vae.decode(mean[1:2])[0], vae.decode(mean)[1])


def test_the_variance_is_kept_in_bounds():
    vae = build()
    for value, bound in ((1e4, 20.0), (-1e4, -30.0)):
        vae.quant_conv.bias[4:] = value
        assert (vae.encode(torch.randn(1, 3, 16, 16)).logvar == bound).all()


def test_samples_have_the_distribution_s_moments_and_follow_their_generator():
    mean, logvar = torch.tensor([-3.0, 0.5]), torch.tensor([-2.0, 1.0])
    latents = GaussianLatents(*(v.view(1, 2, 1, 1).expand(20000, 2, 1, 1) for v in (mean, logvar)))
    draws = latents.sample(torch.Generator().manual_seed(3)).flatten(1)
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(draws.var(0), logvar.exp(), rtol=0.05, atol=0)
    torch.testing.assert_close(latents.std[0].flatten(), logvar.exp().sqrt())
    assert torch.equal(draws, latents.sample(torch.Generator().manual_seed(3)).flatten(1))
    assert not torch.equal(draws, latents.sample(torch.Generator().manual_seed(4)).flatten(1))
    torch.manual_seed(5)
    globally = latents.sample()
    assert not torch.equal(latents.sample(), globally)


def test_attention_is_the_formula():
    attention = SpatialAttention(32).double()
    x = torch.randn(1, 32, 2, 3, dtype=torch.float64)
    tokens = attention.norm(x).flatten(2)[0].T
    q, k, v = (tokens @ layer.weight[..., 0, 0].T + layer.bias for layer in (attention.q, attention.k, attention.v))
    mixed = torch.softmax(q @ k.T / 32**0.5, dim=-1) @ v
    out = mixed @ attention.proj_out.weight[..., 0, 0].T + attention.proj_out.bias
    torch.testing.assert_close(attention(x), x + out.T.reshape(1, 32, 2, 3))


def test_a_block_whose_second_convolution_is_zero_is_its_shortcut():
    x = torch.randn(1, 32, 4, 4)
    for out_channels in (32, 64):
        block = ResnetBlock(32, out_channels).requires_grad_(False)
        block.conv2.weight.zero_()
        block.conv2.bias.zero_()
        names = {name.split(".")[0] for name in block.state_dict()}
        assert ("nin_shortcut" in names) == (out_channels == 64)
        shortcut = block.nin_shortcut
        expected = x if out_channels == 32 else F.conv2d(x, shortcut.weight, shortcut.bias)
        assert torch.equal(block(x), expected)


def test_downsampling_starts_at_the_first_pixel_and_upsampling_repeats():
    layer = Downsample(1).requires_grad_(False)
    layer.conv.weight.zero_()
    layer.conv.bias.zero_()
    x = torch.arange(16.0).view(1, 1, 4, 4)
    layer.conv.weight[0, 0, 0, 0] = 1  # padding on the left or at the top would move this
    assert layer(x).flatten().tolist() == [0, 2, 8, 10]
    layer.conv.weight.zero_()[0, 0, 2, 2] = 1
    assert layer(x).flatten().tolist() == [10, 0, 0, 0]
    layer = Upsample(1).requires_grad_(False)
    layer.conv.weight.zero_()[0, 0, 1, 1] = 1
    layer.conv.bias.zero_()
    assert layer(x[..., :1, :2]).tolist() == [[[[0, 0, 1, 1], [0, 0, 1, 1]]]]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"ch": 48}, "multiples of 32; got 48"),
        ({"ch_mult": ()}, "ch_mult .* needs 1 to 8 multipliers"),
        ({"ch_mult": (1, 0)}, "ch_mult .* at least 1"),
        ({"ch_mult": (1, 1.5)}, "ch_mult .* whole numbers"),
        ({"ch_mult": (1, 300)}, "at most 8192 channels"),
        ({"num_res_blocks": 0}, "num_res_blocks .*got 0"),
        ({"embed_dim": 0}, "embed_dim .*got 0"),
        ({"embed_dim": True}, "embed_dim .*got True"),
        ({"scaling_factor": -1.0}, "scaling_factor .*got -1"),
        ({"shift_factor": float("nan")}, "shift_factor .*got nan"),
    ],
)
def test_sizes_that_do_not_fit(overrides, message):
    with pytest.raises(ConfigError, match=message):
        build(**overrides)


def test_data_of_another_shape():
    vae = build()
    for shape in ((1, 3, 15, 16), (1, 3, 16, 15), (1, 1, 16, 16), (3, 16, 16)):
        with pytest.raises(ValueError, match=r"\(B, 3, H, W\) .*divisible by 2; got"):
            vae.encode(torch.zeros(shape))
    for shape in ((1, 5, 8, 8), (4, 8, 8)):
        with pytest.raises(ValueError, match=r"latents of shape \(B, 4, h, w\); got"):
            vae.decode(torch.zeros(shape))


def test_scaled_latents_are_the_plain_ones_times_the_factor_after_the_shift():
    plain, scaled = build(), build(scaling_factor=0.25, shift_factor=0.5)
    x = torch.randn(2, 3, 16, 16)
    a, b = plain.encode(x), scaled.encode(x)
    torch.testing.assert_close(b.mean, (a.mean - 0.5) * 0.25)
    torch.testing.assert_close(b.std, a.std * 0.25)
    # The same image, whichever latents it is decoded from.
    torch.testing.assert_close(scaled.decode(b.mean), plain.decode(a.mean), rtol=1e-4, atol=1e-5)
