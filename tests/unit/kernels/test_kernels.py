"""Each kernel against its plain formula: values and every gradient, sizes that fill no tile, strided inputs."""

import pytest
import torch
import torch.nn.functional as F

from jitflow.layers.norm import modulate
from jitflow.layers.rope import apply_rope, rope_table

EPS = 1e-6


def compare(plain, kernel, inputs, *, tolerance=2e-6):
    """Compare outputs, and gradients of all inputs under random gradients of the outputs."""
    expected, got = plain(), kernel()
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(e.shape, generator=generator) for e in expected]
    of_plain = torch.autograd.grad(expected, inputs, grads)
    of_kernel = torch.autograd.grad(got, inputs, grads)
    for e, g in zip([*expected, *of_plain], [*got, *of_kernel], strict=True):
        assert g.shape == e.shape
        assert g.dtype == e.dtype
        assert (g - e).norm() <= tolerance * e.norm()


def leaf(*shape):
    return torch.randn(shape, requires_grad=True)


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize(("tokens", "dim"), [(1, 8), (37, 48), (40, 130)])
def test_norm_and_modulation(shifted, tokens, dim):
    from jitflow.kernels import residual_norm

    x, branch, weight, modulation = leaf(2, tokens + 2, dim), leaf(2, tokens, dim), leaf(dim), leaf(2, 3 * dim)
    gate, shift, scale = modulation.chunk(3, dim=-1)
    shift = shift if shifted else None
    settings = {"eps": EPS, "dtype": torch.float32}

    def normed(tokens_):
        return modulate(F.rms_norm(tokens_, (dim,), weight, EPS), shift, scale)

    def added():
        return x[:, 2:] + gate.unsqueeze(1) * branch

    compare(
        lambda: (added(), normed(added())),
        lambda: residual_norm.gated_add_norm_modulate(x[:, 2:], branch, gate, weight, shift, scale, **settings),
        [x, branch, weight, modulation],
    )
    compare(
        lambda: (normed(x[:, 2:]),),
        lambda: (residual_norm.norm_modulate(x[:, 2:], weight, shift, scale, **settings),),
        [x, weight, modulation],
    )
    compare(
        lambda: (added(),),
        lambda: (residual_norm.gated_add(x[:, 2:], branch, gate),),
        [x, branch, modulation],
    )


def test_one_modulation_for_all_samples():
    from jitflow.kernels import residual_norm

    x, branch, weight, modulation = leaf(3, 5, 16), leaf(3, 5, 16), leaf(16), leaf(1, 48)
    gate, shift, scale = modulation.chunk(3, dim=-1)

    def plain():
        total = x + gate.unsqueeze(1) * branch
        return total, modulate(F.rms_norm(total, (16,), weight, EPS), shift, scale)

    compare(
        plain,
        lambda: residual_norm.gated_add_norm_modulate(
            x, branch, gate, weight, shift, scale, eps=EPS, dtype=torch.float32
        ),
        [x, branch, weight, modulation],
    )


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("rows", "hidden"), [(1, 3), (150, 130), (300, 64)])
def test_swiglu(biased, rows, hidden):
    from jitflow.kernels.swiglu import swiglu

    uv, bias = leaf(2, rows, 2 * hidden), leaf(2 * hidden) if biased else None

    def plain():
        u, v = (uv if bias is None else uv + bias).chunk(2, dim=-1)
        return (F.silu(u) * v,)

    compare(plain, lambda: (swiglu(uv, bias),), [uv, bias] if biased else [uv])


@pytest.mark.parametrize(
    ("biased", "unread", "heads", "head_dim"), [(True, 0, 2, 16), (True, 5, 3, 20), (False, 3, 1, 64)]
)
def test_queries_keys_and_values(biased, unread, heads, head_dim):
    from jitflow.kernels.rotary_qkv import rotary_qkv

    # A slice of a longer table, as before the class tokens join.
    table = rope_table((4, 6), head_dim, num_prefix=9)[:, 4:]
    qkv, bias = leaf(2, 29, 3 * heads * head_dim), leaf(3 * heads * head_dim) if biased else None
    weights = leaf(head_dim), leaf(head_dim)

    def plain():
        packed = (qkv if bias is None else qkv + bias).unflatten(-1, (3, heads, head_dim))
        q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = (F.rms_norm(x, (head_dim,), w, EPS) for x, w in zip((q[:, :, unread:], k), weights, strict=True))
        q, k = apply_rope(q, table[:, unread:]), apply_rope(k, table)
        # The kernel writes the first channels of all pairs, then the second ones.
        return *(x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2) for x in (q, k)), v

    compare(
        plain,
        lambda: rotary_qkv(qkv, bias, *weights, table, num_heads=heads, unread=unread, eps=EPS),
        [qkv, *weights, *([bias] if biased else [])],
    )
