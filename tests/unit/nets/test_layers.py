"""Layers against formulas written out plainly."""

import cmath
import math

import pytest
import torch

from jitflow.layers.attention import Attention
from jitflow.layers.embed import LabelEmbedder, TimestepEmbedder, sincos_position_table
from jitflow.layers.mlp import SwiGLU
from jitflow.layers.norm import RMSNorm, modulate
from jitflow.layers.patch import BottleneckPatchEmbed, unpatchify
from jitflow.layers.rope import RotaryTable, apply_rope, rope_table

GRID = (2, 3)


def rotate_plainly(x, row, col):
    """Turn the pairs of one head's channels: row angles in the first half, column angles in the second."""
    dim = len(x)
    out = []
    for pair in range(dim // 2):
        place, i = (row, pair) if pair < dim // 4 else (col, pair - dim // 4)
        angle = place * 10000 ** (-2 * i / (dim / 2))
        turned = complex(x[2 * pair], x[2 * pair + 1]) * cmath.exp(1j * angle)
        out += [turned.real, turned.imag]
    return torch.tensor(out, dtype=torch.float64)


def rms(x, weight):
    return x / torch.sqrt((x**2).mean() + 1e-6) * weight


def test_rope_rotates_pairs_by_row_first():
    x = torch.randn(1, 1, 7, 8, dtype=torch.float64)
    turned = apply_rope(x, rope_table(GRID, 8, num_prefix=1))
    torch.testing.assert_close(turned[0, 0, 0], x[0, 0, 0])  # a prefix has no place
    for row in range(2):
        for col in range(3):
            token = 1 + row * 3 + col
            expected = rotate_plainly(x[0, 0, token].tolist(), row, col)
            torch.testing.assert_close(turned[0, 0, token], expected, rtol=0, atol=1e-6)


def test_rope_makes_scores_depend_on_the_offset_only_and_on_its_axis():
    q, k = torch.randn(2, 8)
    table = rope_table((5, 5), 8)

    def score(place_q, place_k):
        both = torch.stack([q, k]).view(1, 1, 2, 8)
        rows = table[:, [r * 5 + c for r, c in (place_q, place_k)]]
        a, b = apply_rope(both, rows)[0, 0]
        return (a @ b).item()

    assert score((0, 0), (1, 2)) == pytest.approx(score((3, 1), (4, 3)), abs=1e-5)
    assert score((0, 0), (1, 2)) != pytest.approx(score((0, 0), (2, 1)), abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rope_out_of_order_keeps_products_on_its_way_to_a_compiler(dtype):
    q, k = torch.randn(2, 1, 2, 6, 8).to(dtype)
    table = rope_table(GRID, 8)
    turn = torch.compile(apply_rope, backend="eager")
    scores = [
        turn(q, table, in_order=in_order) @ turn(k, table, in_order=in_order).transpose(2, 3)
        for in_order in (True, False)
    ]
    assert scores[1].dtype == dtype
    torch.testing.assert_close(scores[1], scores[0])
    assert not torch.equal(turn(q, table, in_order=False), turn(q, table))


def test_rope_table_stays_float32_and_can_be_trained_after_sampling():
    with torch.inference_mode():
        table = RotaryTable(GRID, 8)(torch.device("cpu"))
    assert table.dtype == torch.float32
    x = torch.randn(1, 1, 6, 8, dtype=torch.bfloat16, requires_grad=True)
    turned = apply_rope(x, table)
    assert turned.dtype == torch.bfloat16
    turned.sum().backward()


def test_position_table_column_first():
    table = sincos_position_table(GRID, 8)
    assert table.shape == (1, 6, 8)
    assert table.dtype == torch.float32
    for row in range(2):
        for col in range(3):
            angles = [place * w for place in (col, row) for w in (1.0, 10000**-0.5)]
            expected = [f(angles[2 * half + j]) for half in (0, 1) for f in (math.sin, math.cos) for j in (0, 1)]
            torch.testing.assert_close(table[0, row * 3 + col], torch.tensor(expected))


@pytest.mark.parametrize("num_prefix", [0, 2])
def test_attention_against_a_plain_softmax_in_float64(num_prefix):
    torch.manual_seed(0)
    num_tokens, dim, heads = num_prefix + 6, 16, 2
    layer = Attention(dim, heads).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.5)
    x = torch.randn(2, num_tokens, dim, dtype=torch.float64)
    out = layer(x, rope_table(GRID, dim // heads, num_prefix=num_prefix))

    places = [(0, 0)] * num_prefix + [(r, c) for r in range(2) for c in range(3)]
    expected = torch.zeros_like(x)
    with torch.no_grad():
        for sample in range(2):
            qkv = (x[sample] @ layer.qkv.weight.T + layer.qkv.bias).view(num_tokens, 3, heads, dim // heads)
            merged = torch.zeros(num_tokens, dim, dtype=torch.float64)
            for head in range(heads):
                q, k = (
                    [rotate_plainly(rms(qkv[n, i, head], norm.weight).tolist(), *places[n]) for n in range(num_tokens)]
                    for i, norm in ((0, layer.q_norm), (1, layer.k_norm))
                )
                for n in range(num_tokens):
                    weights = [math.exp((q[n] @ key).item() / math.sqrt(dim // heads)) for key in k]
                    mean = sum(w * qkv[m, 2, head] for m, w in enumerate(weights)) / sum(weights)
                    merged[n, head * 8 : head * 8 + 8] = mean
            expected[sample] = merged @ layer.proj.weight.T + layer.proj.bias
    # Norm and rotation are float32 by design; the rest is exact.
    torch.testing.assert_close(out, expected, rtol=0, atol=2e-6 * expected.abs().max().item())


def test_attention_drops_out_only_in_training():
    layer = Attention(16, 2, attn_dropout=0.5, proj_dropout=0.0)
    x, rope = torch.randn(1, 6, 16), rope_table(GRID, 8)
    assert not torch.equal(layer(x, rope), layer(x, rope))
    layer.eval()
    assert torch.equal(layer(x, rope), layer(x, rope))


def test_rms_norm_in_float32_back_to_the_dtype_of_the_input():
    norm = RMSNorm(6)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(4, 6)
    torch.testing.assert_close(norm(x), torch.stack([rms(row, norm.weight) for row in x]))
    # Squares that would overflow float16.
    half = (x * 1000).half()
    assert norm(half).dtype == torch.float16
    torch.testing.assert_close(norm(half).float(), norm(half.float()), rtol=2e-3, atol=2e-3)


def test_modulate():
    x, shift, scale = torch.randn(2, 3, 4), torch.randn(2, 4), torch.randn(2, 4)
    expected = torch.stack([x[b] * (1 + scale[b]) + shift[b] for b in range(2)])
    torch.testing.assert_close(modulate(x, shift, scale), expected)


def test_swiglu():
    mlp = SwiGLU(12)
    assert mlp.w3.in_features == 32  # two thirds of 48
    assert SwiGLU(96).w3.in_features == 256
    x = torch.randn(2, 5, 12)
    hidden = x @ mlp.w12.weight.T + mlp.w12.bias
    u, v = hidden[..., :32], hidden[..., 32:]
    torch.testing.assert_close(mlp(x), (u * torch.sigmoid(u) * v) @ mlp.w3.weight.T + mlp.w3.bias)
    assert SwiGLU(12, dropout=0.3).dropout.p == 0.3


def test_time_embedding_is_cosines_then_sines_of_the_unscaled_time():
    embed = TimestepEmbedder(256)
    torch.nn.init.eye_(embed.mlp[0].weight)
    torch.nn.init.zeros_(embed.mlp[0].bias)
    embed.mlp[1] = embed.mlp[2] = torch.nn.Identity()
    waves = embed(torch.tensor([0.7]))[0]
    for j in (0, 1, 64, 127):
        angle = 0.7 * 10000 ** (-j / 128)
        assert waves[j].item() == pytest.approx(math.cos(angle), abs=1e-6)
        assert waves[128 + j].item() == pytest.approx(math.sin(angle), abs=1e-6)


def test_time_embedding_keeps_its_precision_under_bfloat16():
    embed = TimestepEmbedder(32)
    reference = embed(torch.tensor([0.5, 0.5005]))
    assert not torch.equal(*reference)
    embed.bfloat16()
    # Times that bfloat16 cannot tell apart must still differ in their waves.
    assert not torch.equal(*embed(torch.tensor([0.5, 0.51])))
    assert embed(torch.tensor([0.5])).dtype == torch.bfloat16


def test_label_embedding_has_a_row_for_no_class():
    assert LabelEmbedder(10, 4)(torch.tensor([0, 10])).shape == (2, 4)


def test_patches_row_by_row_and_back_channel_fastest():
    images = torch.arange(2 * 2 * 4 * 6.0).view(2, 2, 4, 6)  # 2 channels, grid 2 x 3 of patches of side 2
    patches = torch.stack(
        [
            torch.stack(
                [
                    images[b, :, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].permute(1, 2, 0).flatten()
                    for r in range(2)
                    for c in range(3)
                ]
            )
            for b in range(2)
        ]
    )
    assert torch.equal(unpatchify(patches, GRID, 2), images)

    embed = BottleneckPatchEmbed(2, 2, 5, 7)
    assert embed.proj1.bias is None
    tokens = embed(images)
    assert tokens.shape == (2, 6, 7)
    for r in range(2):
        for c in range(3):
            patch = images[0, :, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].flatten()
            narrow = embed.proj1.weight.flatten(1) @ patch
            expected = embed.proj2.weight.flatten(1) @ narrow + embed.proj2.bias
            torch.testing.assert_close(tokens[0, r * 3 + c], expected, rtol=1e-4, atol=1e-4)
