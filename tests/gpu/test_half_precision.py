"""bf16 autocast against float32, TF32, and what a record says of them."""

import pytest
import torch

from jitflow.host import full_float32, is_tf32_allowed

pytestmark = pytest.mark.gpu


def test_auto_is_bf16_on_cuda_and_recorded(make_model, device):
    model = make_model(compile=False)
    drawn = {name: model.sample([0, 1, 2, 3], precision=name) for name in ("auto", "bf16", "32")}
    expected = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    assert drawn["auto"].settings["precision"] == expected
    assert torch.equal(drawn["auto"].pixels, drawn[expected].pixels)


def test_samples_in_bf16_are_near_those_in_float32(make_model):
    model = make_model(compile=False)
    half, full = (model.sample(list(range(5)), guidance=2.0, precision=name).pixels.float() for name in ("bf16", "32"))
    assert not torch.equal(half, full)
    # Levels of 256; bf16 keeps 8 bits, and errors add up over the steps.
    assert (half - full).square().mean().sqrt() < 4


def test_the_network_in_bf16_is_near_float32(make_module, device):
    module = make_module(compile=False).eval()
    x, t = torch.randn(4, 3, 16, 16, device=device), torch.linspace(0.1, 0.9, 4, device=device)
    labels = torch.arange(4, device=device)
    with torch.no_grad():
        full = module(x, t, labels)
        with torch.autocast(device.type, torch.bfloat16):
            half = module(x, t, labels)
    assert (half.float() - full).norm() < 0.03 * full.norm()


def test_float32_products_run_in_tf32_and_in_true_float32_where_it_matters(make_model, device):
    make_model()
    assert is_tf32_allowed() == (device.type == "cuda")
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=generator).to(device) for _ in range(2))
    exact = a.double() @ b.double()
    with full_float32():
        true = (a @ b - exact).norm() / exact.norm()
    fast = (a @ b - exact).norm() / exact.norm()
    assert true < 1e-5 and fast < 1e-3
    has_tf32 = device.type == "cuda" and torch.cuda.get_device_capability()[0] >= 8
    assert (fast > 5 * true) == has_tf32
