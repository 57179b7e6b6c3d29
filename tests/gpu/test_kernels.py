"""Layers on the device against their formulas in float64 on the CPU."""

import pytest
import torch

from jitflow.layers.attention import Attention
from jitflow.layers.fusion import fuses, plain_formulas
from jitflow.layers.mlp import SwiGLU
from jitflow.layers.norm import RMSNorm, modulate
from jitflow.layers.rope import apply_rope, rope_table
from jitflow.nets.jit import JiT

pytestmark = pytest.mark.gpu
# Relative to the norm of the result.
LARGEST = {torch.float32: 2e-3, torch.bfloat16: 2e-2}
both = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def values(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_near(found, expected, dtype):
    assert found.dtype == dtype and found.shape == expected.shape
    assert (found.double().cpu() - expected).norm() <= LARGEST[dtype] * expected.norm()


@both
def test_rms_norm(device, dtype):
    norm = RMSNorm(48)
    with torch.no_grad():
        norm.weight.copy_(values(48, seed=1))
    x = values(3, 7, 48).to(dtype).double()
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight.double()
    assert_near(norm.to(device)(x.to(device, dtype)), expected.detach(), dtype)


@both
def test_modulation(device, dtype):
    shapes = ((2, 5, 32), (2, 32), (2, 32))
    x, shift, scale = (values(*shape, seed=i).to(dtype).double() for i, shape in enumerate(shapes))
    found = modulate(*(part.to(device, dtype) for part in (x, shift, scale)))
    assert found.dtype == dtype
    # In the order of the code: x + shift + x scale.
    assert_near(found, x * (1 + scale[:, None]) + shift[:, None], dtype)


@both
@pytest.mark.parametrize("in_order", [True, False])
def test_rotary_positions(device, dtype, in_order):
    table = rope_table((3, 4), 16, num_prefix=2)
    x = values(2, 2, 14, 16).to(dtype).double()
    cos, sin = table.double()
    a, b = x[..., ::2], x[..., 1::2]
    first, second = a * cos - b * sin, b * cos + a * sin
    found = apply_rope(x.to(device, dtype), table.to(device), in_order=in_order)
    expected = torch.stack([first, second], -1).flatten(-2)
    if not in_order and device.type == "cuda":
        expected = torch.cat([first, second], -1)
    assert_near(found, expected, dtype)


@both
@pytest.mark.parametrize("unread", [0, 2])
def test_attention(device, dtype, unread):
    torch.manual_seed(0)
    layer, table = Attention(32, 2), rope_table((3, 4), 16, num_prefix=2)
    x = values(2, 14, 32)
    exact = layer.double()
    q, k, v = exact.qkv(x).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = (part / (part.square().mean(-1, keepdim=True) + 1e-6).sqrt() for part in (q, k))
    cos, sin = table.double()
    q, k = (
        torch.cat([p[..., ::2] * cos - p[..., 1::2] * sin, p[..., 1::2] * cos + p[..., ::2] * sin], -1) for p in (q, k)
    )
    mixed = ((q @ k.mT / 4).softmax(-1) @ v)[:, :, unread:]
    expected = exact.proj(mixed.transpose(1, 2).flatten(2)).detach()
    found = layer.to(device, dtype)(x.to(device, dtype), table.to(device), unread)
    assert_near(found.detach(), expected, dtype)


@both
def test_gated_layer(device, dtype):
    torch.manual_seed(0)
    layer, x = SwiGLU(32), values(2, 5, 32)
    exact = layer.double()
    u, v = exact.w12(x).chunk(2, -1)
    expected = exact.w3(u * u.sigmoid() * v).detach()
    assert_near(layer.to(device, dtype)(x.to(device, dtype)).detach(), expected, dtype)


@both
@pytest.mark.parametrize(("width", "heads"), [(768, 12), (640, 8), (200, 2)])
def test_a_network_with_the_kernels_against_the_formulas(device, dtype, width, heads):
    """Output and every gradient; widths and heads that fill no tile, and a hidden size that is padded."""
    torch.manual_seed(0)
    net = JiT(64, 8, 3, width, 3, heads, num_classes=7, in_context_len=5, in_context_start=1).to(device)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    x, t, y = torch.randn(3, 3, 64, 64, device=device), torch.rand(3, device=device), torch.arange(3, device=device)
    assert fuses(x) == (device.type == "cuda")

    def gradients():
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            out = net(x, t, y).float()
        return [out, *torch.autograd.grad(out.square().mean(), [p for p in net.parameters() if p.requires_grad])]

    found = gradients()
    with plain_formulas():
        expected = gradients()
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= (1e-3 if dtype is torch.float32 else 5e-2) * theirs.norm()
