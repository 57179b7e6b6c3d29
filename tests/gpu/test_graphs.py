"""Samples drawn with CUDA graphs of the evaluations equal those whose kernels are launched one by one."""

import threading

import pytest
import torch

from jitflow.training import sampling
from jitflow.training.evaluation_graphs import EvaluationGraphs, record_cuda_graph

pytestmark = pytest.mark.gpu
LABELS = [0, 3, 1, 4]
SETTINGS = [
    {"cfg_scale": 2.0, "cfg_interval": (0.2, 0.7)},
    {"cfg_scale": 2.0, "guidance_rule": "cfg_zero", "sampling_method": "multistep"},
    {"cfg_scale": 2.0, "churn": 0.5},
    {"net_settings": {"depth": 2, "hidden_size": 32, "num_heads": 2, "bottleneck_dim": 8, "self_conditioning": True}},
]


@pytest.fixture
def recorded(monkeypatch):
    """Record of the graphs that were made."""
    found = []
    monkeypatch.setattr(
        sampling,
        "EvaluationGraphs",
        lambda: EvaluationGraphs(lambda run: found.append(run) or record_cuda_graph(run)),
    )
    return found


def draw(model, monkeypatch=None, **asked):
    if monkeypatch is not None:
        with monkeypatch.context() as patch:
            patch.setattr(sampling, "EvaluationGraphs", lambda: None)
            return draw(model, **asked)
    return model.sample(LABELS, 5, **asked).pixels.int()


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_same_samples(make_model, device, recorded, monkeypatch, settings, precision):
    model = make_model(num_sampling_steps=12, compile=False, **settings)
    expected = draw(model, monkeypatch, precision=precision)
    assert not recorded
    # Twice: another batch records its own.
    for _ in range(2):
        assert (draw(model, precision=precision) - expected).abs().max() <= (0 if precision == "32" else 2)
    kinds = 2 if "cfg_interval" in settings else 1
    assert len(recorded) == (2 * kinds if device.type == "cuda" else 0)


def test_averages_and_weights_have_their_own(make_model, recorded, monkeypatch):
    model = make_model(num_sampling_steps=12, cfg_scale=2.0, compile=False)
    for value in model.module.ema_params1.values():
        value.mul_(1.2)
    for average in (1, 0, 1):
        expected = draw(model, monkeypatch, ema=average, precision="bf16")
        assert (draw(model, ema=average, precision="bf16") - expected).abs().max() <= 2


def test_of_a_compiled_network(make_model, recorded, monkeypatch):
    plain = make_model(num_sampling_steps=12, cfg_scale=2.0, cfg_interval=(0.2, 0.7), compile=False)
    compiled = make_model(num_sampling_steps=12, cfg_scale=2.0, cfg_interval=(0.2, 0.7), compile=False).compile()
    expected = draw(plain, monkeypatch, precision="32")
    for _ in range(2):
        assert (draw(compiled, precision="32") - expected).abs().max() <= 2


def test_other_threads_draw_meanwhile(make_model, recorded, monkeypatch):
    model = make_model(num_sampling_steps=12, cfg_scale=2.0, compile=False)
    expected, found = draw(model, monkeypatch, precision="32"), []
    threads = [threading.Thread(target=lambda: found.append(draw(model, precision="32"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and all(torch.equal(one, expected) for one in found)
