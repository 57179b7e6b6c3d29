"""Named conditions in both networks: embeddings are summed, and nothing else changes."""

import pytest
import torch

from jitflow.errors import ConfigError
from jitflow.nets.jit import JiT
from jitflow.nets.lightningdit import LightningDiT
from jitflow.training.modulation import ModulationTable

CONDITIONS = {"activity": {"names": ["walk", "run"]}, "speed": {"range": [0.5, 2.0]}}
SIZES = {"patch_size": 4, "hidden_size": 32, "depth": 2, "num_heads": 2, "num_classes": 3}
JIT = {**SIZES, "img_size": 8, "bottleneck_dim": 8, "in_context_len": 2, "in_context_start": 1}
NETS = {"jit": (JiT, JIT), "dit": (LightningDiT, {**SIZES, "input_size": 8, "in_channels": 3})}
T = torch.tensor([0.1, 0.5, 0.9])
# The last one is null in everything.
LABELS = torch.tensor([[0, 1, 0.25], [2, 0, -1], [3, 2, -1]])


@pytest.fixture(params=NETS)
def build(request):
    kind, settings = NETS[request.param]

    def make(shaken=True, **further):
        torch.manual_seed(0)
        net = kind(**settings, **further)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in net.parameters() if shaken else ():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
        return net

    return make


def test_the_condition_is_the_sum_of_its_embeddings(build):
    net = build(conditions=CONDITIONS)
    _, features = net(torch.zeros(3, 3, 8, 8), T, LABELS, features=("condition",))
    activity, speed = net.condition_embedder.activity_embedder, net.condition_embedder.speed_embedder
    expected = net.t_embedder(T) + net.y_embedder.embedding_table.weight[[0, 2, 3]]
    expected = expected + activity.embedding_table.weight[[1, 0, 2]]
    numbers = torch.stack([speed.mlp(_sinusoids(0.25)), speed.null_embedding, speed.null_embedding])
    torch.testing.assert_close(features["condition"], expected + numbers)


def _sinusoids(value, num=128):
    angles = value * 10000 ** (-torch.arange(num) / num)
    return torch.cat([angles.cos(), angles.sin()])


def test_the_same_seed_gives_all_other_weights_and_names(build):
    plain, conditioned = build(shaken=False).state_dict(), build(shaken=False, conditions=CONDITIONS).state_dict()
    added = conditioned.keys() - plain.keys()
    assert added and all(name.startswith("condition_embedder.") for name in added)
    assert all(torch.equal(plain[name], conditioned[name]) for name in plain)


def test_each_condition_changes_the_output_by_itself(build):
    net, x = build(conditions=CONDITIONS), torch.randn(1, 3, 8, 8)
    label = torch.tensor([[0, 1, 0.25]])
    for column, other in ((0, 1.0), (1, 0.0), (1, 2.0), (2, 0.75), (2, -1.0)):
        changed = label.clone()
        changed[0, column] = other
        assert (net(x, T[:1], changed) - net(x, T[:1], label)).abs().max() > 1e-4


def test_a_table_of_modulations_has_the_rows_of_conditions(build):
    net = build(conditions=CONDITIONS)
    table = ModulationTable(net, torch.cat([LABELS, LABELS[:1]]), torch.tensor([0.0, 0.5]))
    for time in (0.0, 0.5, 0.7):
        t = torch.full((3,), time)
        torch.testing.assert_close(table.of_samples(table.at(t), LABELS), net.modulation(t, LABELS))


def test_labels_of_another_shape_are_refused(build):
    x = torch.zeros(3, 3, 8, 8)
    with pytest.raises(ValueError, match="the class and 2 conditions"):
        build(conditions=CONDITIONS)(x, T, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="takes labels of shape"):
        build()(x, T, LABELS)


def test_conditions_need_a_class():
    with pytest.raises(ConfigError, match="num_classes above 0"):
        JiT(**{**JIT, "num_classes": 0, "in_context_len": 0, "conditions": CONDITIONS})
