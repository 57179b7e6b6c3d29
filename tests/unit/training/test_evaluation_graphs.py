"""Evaluations recorded as graphs draw the same samples. On a CPU a trace takes the place of a CUDA graph: it repeats
the operations on tensors at their addresses, with every number of Python as it was when it was recorded."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from jitflow.core.condition import Condition
from jitflow.core.seeding import use_seeds
from jitflow.model import Model
from jitflow.training.evaluation_graphs import EvaluationGraphs

LABELS = torch.tensor([3, 0, 4, 1])


class Traces:
    """Record of functions as traces, and of how often each was repeated."""

    def __init__(self):
        self.repeated = []

    def __call__(self, run):
        trace, place = make_fx(run)(), len(self.repeated)
        result = trace()
        self.repeated.append(0)

        def repeat():
            self.repeated[place] += 1
            for kept, new in zip(result, trace(), strict=True):
                if kept is not None:
                    kept.copy_(new)

        return repeat, result


def use_traces(module, monkeypatch):
    """Let a module sample with traces as it would with CUDA graphs, where its rules allow it."""
    traces = Traces()
    monkeypatch.setattr(type(module), "device", property(lambda self: Cuda()))
    monkeypatch.setattr("jitflow.training.sampling.EvaluationGraphs", lambda: EvaluationGraphs(traces))
    return traces


class Cuda(str):
    """A device that says it is CUDA, and is the CPU."""

    type = "cuda"

    def __new__(cls):
        return super().__new__(cls, "cpu")


def draw(module, condition=None):
    with use_seeds(range(len(LABELS))):
        return module.generate_condition(condition or Condition(label=LABELS), use_ema=False)


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({}, 1),
        ({"cfg_scale": 2.0}, 1),
        ({"cfg_scale": 2.0, "cfg_interval": (0.2, 0.6)}, 2),
        ({"cfg_scale": 2.0, "cfg_interval": (0.2, 0.6), "sampling_method": "multistep"}, 2),
        ({"cfg_scale": 2.0, "cfg_channels": 2, "guidance_rule": "cfg_zero"}, 1),
        ({"cfg_scale": 2.0, "guidance_rule": "apg", "apg_eta": 0.5}, 1),
        ({"cfg_scale": 2.0, "prediction": "noise", "churn": 0.4}, 1),
        ({"cfg_scale": 2.0, "sde": 0.5}, 1),
        ({"cfg_scale": 2.0, "net_settings": {"self_conditioning": True}}, 1),
    ],
)
def test_graphs_draw_the_same(make_module, monkeypatch, settings, kinds):
    module = make_module(num_sampling_steps=8, **settings)
    expected = draw(module)
    traces = use_traces(module, monkeypatch)
    torch.testing.assert_close(draw(module), expected, rtol=1e-4, atol=1e-5)
    assert len(traces.repeated) == kinds and min(traces.repeated) >= 2


def test_known_parts_stay_as_they_are(make_module, monkeypatch):
    module = make_module(num_sampling_steps=8, cfg_scale=2.0, net_settings={"self_conditioning": True})
    known = torch.rand(4, *module.codec.shape)
    condition = Condition(label=LABELS, known=known, mask=torch.rand((*known.shape[:1], 1, *known.shape[2:])) < 0.5)
    expected = draw(module, condition)
    traces = use_traces(module, monkeypatch)
    torch.testing.assert_close(draw(module, condition), expected, rtol=1e-4, atol=1e-5)
    assert traces.repeated


@pytest.mark.parametrize(
    "settings",
    [
        {"num_sampling_steps": 3},
        {"cfg_scale": 2.0, "guidance_rule": "apg", "apg_momentum": -0.3},
        {"autoguide": True},
        {"hook": True},
        {"override": True},
    ],
)
def test_what_a_graph_would_not_repeat_is_run_each_time(make_module, monkeypatch, settings):
    settings = {"num_sampling_steps": 8, **settings}
    autoguide, hook, override = (settings.pop(name, False) for name in ("autoguide", "hook", "override"))
    module = make_module(**settings)
    if hook:
        module.net.blocks[0].register_forward_hook(lambda *args: None)
    if override:
        kind = type(module)
        module.__class__ = type(
            "Mine", (kind,), {"_forward_sample": lambda self, *args: kind._forward_sample(self, *args)}
        )
    traces = use_traces(module, monkeypatch)
    if autoguide:
        weak = Model(make_module())
        with module.sampling(cfg_scale=2.0, weak=weak.module):
            draw(module)
    else:
        draw(module)
    assert traces.repeated == []


def test_what_no_graph_can_hold_is_said_and_run(make_module, monkeypatch, caplog):
    module = make_module(num_sampling_steps=8, cfg_scale=2.0)
    expected = draw(module)

    def fail(run):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    use_traces(module, monkeypatch)
    monkeypatch.setattr("jitflow.training.sampling.EvaluationGraphs", lambda: EvaluationGraphs(fail))
    torch.testing.assert_close(draw(module), expected, rtol=1e-4, atol=1e-5)
    assert len(caplog.messages) == 1 and "not permitted when stream is capturing)" in caplog.text
