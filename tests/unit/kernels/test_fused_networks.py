"""Whole networks with the kernels against the plain formulas, and when the kernels are used."""

import pytest
import torch
from torch import nn

from jitflow.layers import fusion, mlp
from jitflow.layers.fusion import fuses, is_plain_linear, plain_formulas
from jitflow.layers.mlp import SwiGLU
from jitflow.nets.jit import JiT
from jitflow.nets.lightningdit import LightningDiT

JIT = {
    "img_size": 8, "patch_size": 4, "hidden_size": 24, "depth": 3, "num_heads": 2, "num_classes": 5,
    "bottleneck_dim": 8, "in_context_len": 3, "in_context_start": 1,
}  # fmt: skip
DIT = {"input_size": 4, "in_channels": 4, "hidden_size": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
DIT_KINDS = {"use_qknorm": True, "use_swiglu": True, "use_rope": True, "use_rmsnorm": True}


def built(kind, **settings):
    torch.manual_seed(0)
    net = kind(**{**(JIT if kind is JiT else DIT), **settings})
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return net


def output(net):
    torch.manual_seed(1)
    side = 8 if isinstance(net, JiT) else 4
    return net(torch.randn(2, net.in_channels, side, side), torch.rand(2), torch.tensor([1, 4]))


def gradients(net):
    out = output(net)
    trained = [p for p in net.parameters() if p.requires_grad]
    return [out, *torch.autograd.grad(out.square().sum(), trained)]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (JiT, {}),
        (JiT, {"gradient_checkpointing": True, "depth": 2}),
        (JiT, {"depth": 2, "num_classes": 0, "in_context_len": 0, "positions": "learned", "use_rope": False}),
        (LightningDiT, DIT_KINDS),
        (LightningDiT, {**DIT_KINDS, "wo_shift": True, "use_checkpoint": True}),
        (LightningDiT, {}),
    ],
)
def test_a_network_gives_the_same_with_the_kernels(kind, settings):
    net = built(kind, **settings)
    with plain_formulas():
        plain = gradients(net)
    for expected, got in zip(plain, gradients(net), strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-4, atol=2e-5)


def test_a_hidden_size_of_any_length_is_padded_without_effect(monkeypatch):
    torch.manual_seed(0)
    layer, x = SwiGLU(25), torch.randn(2, 7, 25)
    assert layer.w3.in_features % 64
    seen = []
    pad = mlp.pad_hidden
    monkeypatch.setattr(mlp, "pad_hidden", lambda *args, **kw: seen.append(pad(*args, **kw)) or seen[-1])
    with plain_formulas():
        expected = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
    got = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
    assert seen[0][2].shape[1] % 64 == 0
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_layer_with_a_hook_or_of_another_class_is_called_as_it_is():
    class Other(nn.Linear):
        pass

    plain, hooked = nn.Linear(2, 2), nn.Linear(2, 2)
    hooked.register_forward_hook(lambda *_: None)
    assert is_plain_linear(plain)
    assert not is_plain_linear(hooked)
    assert not is_plain_linear(Other(2, 2))
    layer, calls = SwiGLU(24), []
    layer.w12.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(1, 3, 24)
    with plain_formulas():
        expected = layer(x)
    torch.testing.assert_close(layer(x), expected)
    assert calls == [1, 1]


def test_what_the_kernels_do_not_take(monkeypatch):
    x = torch.zeros(1, 2, 8)
    assert fuses(x)
    assert not fuses(x.double())
    assert not fuses(torch.zeros(1, 1, 5000))
    with plain_formulas():
        assert not fuses(x)
    for missing in ("HAS_TRITON", "HAS_C_COMPILER"):
        with monkeypatch.context() as patch:
            patch.setattr(fusion, missing, False)
            assert not fuses(x)


def test_a_stream_in_bfloat16_changes_the_network_only_under_autocast():
    net, other = built(JiT, bf16_stream=True), built(JiT)
    with plain_formulas():
        exact = output(other)
        assert torch.equal(output(net), exact)
    with torch.autocast("cpu", torch.bfloat16):
        with_stream, without = output(net).float(), output(other).float()
    assert not torch.equal(with_stream, without)
    assert (with_stream - exact).norm() < 0.05 * exact.norm()
