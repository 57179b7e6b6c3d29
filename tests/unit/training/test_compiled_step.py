"""When a training step or the network of a model is compiled, and as what; the compiler itself runs in tests/gpu."""

import copy
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch

from jitflow.errors import ConfigError
from jitflow.layers import fusion
from jitflow.model import Model
from jitflow.nets.registry import create_model
from jitflow.training.compiled import CompiledLoss, compiles_loss, is_launch_bound, prepare_cuda


@pytest.fixture
def asked(monkeypatch):
    """Modes that the compiler was asked for; it returns the function as it is."""
    modes = []

    def compile_(function, *, dynamic, mode):
        assert dynamic is False
        modes.append(mode)
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    return modes


def step(module):
    torch.manual_seed(1)
    module.log = lambda *args, **kwargs: None
    images = torch.randint(0, 256, (4, *module.codec.shape), dtype=torch.uint8)
    return module.training_step((images, torch.arange(4)), 0)


def test_a_step_is_compiled_once_if_asked_and_by_itself_not_on_a_cpu(make_module, asked):
    expected = step(make_module())["loss"]
    for parts in (False, "auto"):
        assert torch.equal(step(make_module(compile=parts))["loss"], expected)
    assert asked == []
    module = make_module(compile="loss")
    assert torch.equal(step(module)["loss"], expected)
    assert torch.equal(step(module)["loss"], expected)
    assert asked == [None]


def test_without_a_c_compiler_nothing_is_compiled_by_itself_and_a_line_says_so(monkeypatch, caplog):
    module = SimpleNamespace(net=create_model("JiT-N/4"))
    module.net.compile_parts("auto")
    assert compiles_loss(module, FakeCuda(4))
    monkeypatch.setattr(fusion, "HAS_C_COMPILER", False)
    assert not compiles_loss(module, FakeCuda(4))
    prepare_cuda()
    assert "C compiler" in caplog.text
    # What is asked for is tried.
    module.net.compile_parts("loss")
    assert compiles_loss(module, FakeCuda(4))


def test_a_validation_is_not_compiled(make_module, asked):
    module = make_module(compile="loss")
    module.log_dict = lambda *args, **kwargs: None
    with torch.no_grad():
        module.validation_step((torch.zeros(2, *module.codec.shape, dtype=torch.uint8), torch.arange(2)), 0)
    assert asked == []


def test_a_copy_compiles_for_itself(make_module, asked):
    module = make_module(compile="loss")
    step(module)
    copied = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(1.5)
    assert not torch.equal(step(copied)["loss"], step(module)["loss"])
    assert asked == [None, None]


def test_a_step_returns_nothing_that_the_next_replay_of_a_graph_overwrites(make_module, asked, monkeypatch):
    module = make_module(compile="loss")
    held = torch.ones(4, requires_grad=True)
    module.loss_parts = lambda *args, **kwargs: {"velocity": held}
    monkeypatch.setattr(CompiledLoss, "can_graph", lambda self, x1: True)
    outputs = step(module)
    with torch.no_grad():
        held.fill_(7)
    assert asked == ["reduce-overhead"]
    assert outputs["losses"].tolist() == [1.0] * 4
    assert outputs["parts"]["velocity"] == outputs["loss"] == 1


@pytest.mark.parametrize(("world", "accumulated", "graphed"), [(1, 1, True), (2, 1, False), (1, 2, False)])
def test_a_graph_excludes_what_relies_on_gradients_of_fixed_addresses(
    make_module, monkeypatch, world, accumulated, graphed
):
    module = make_module()
    assert not CompiledLoss(module).can_graph(FakeCuda(4)), "without a trainer, nothing is known of the loop"
    trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, accumulate_grad_batches=accumulated)
    monkeypatch.setattr(pl.Trainer, "world_size", world)
    module.trainer = trainer
    assert CompiledLoss(module).can_graph(FakeCuda(4)) == graphed
    monkeypatch.setattr(type(module), "is_one_graph", False)
    assert not CompiledLoss(module).can_graph(FakeCuda(4))


class FakeCuda:
    """Stands for a batch on CUDA."""

    is_cuda = True

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size


@pytest.mark.parametrize(
    ("name", "batch", "bound"),
    [("JiT-N/4", 64, True), ("JiT-B/16", 32, True), ("JiT-B/16", 128, False), ("JiT-L/16", 128, False)],
)
def test_small_steps_are_bound_by_launches(name, batch, bound):
    with torch.device("meta"):
        net = create_model(name)
    assert is_launch_bound(net, batch, passes=3) == bound
    assert not is_launch_bound(torch.nn.Linear(1, 1), batch, passes=3)


def test_the_compiler_takes_only_what_there_is(make_module):
    with pytest.raises(ConfigError, match=r"compile.*blocks"):
        make_module(compile="block")


@pytest.mark.parametrize(("device", "num", "told", "compiled"), [
    ("cuda", 50_000, None, True),
    ("cuda", 64, None, False),
    ("cuda", 50_000, False, False),
    ("cpu", 50_000, None, False),
])  # fmt: skip
def test_sampling_is_compiled_where_it_repays(make_module, monkeypatch, device, num, told, compiled):
    module = make_module(num_sampling_steps=50)
    modes = []
    monkeypatch.setattr(module.net, "compile", lambda **settings: modes.append(settings))
    monkeypatch.setattr(type(module), "device", property(lambda self: torch.device(device)))
    model = Model(module)
    if told is not None:
        model.compile(told)
    model.compile_for(num, 64).compile_for(num, 64)
    assert modes == ([{"dynamic": False}] if compiled else [])


def test_the_last_batch_of_a_compiled_model_is_filled_up(make_module, monkeypatch):
    module = make_module()
    expected = Model(module).sample([0, 1, 2, 3, 4], seeds=3, batch_size=2, ema=0).pixels
    sizes, generate = [], module.generate
    monkeypatch.setattr(module.net, "compile", lambda **settings: None)
    monkeypatch.setattr(module, "generate", lambda labels, **kw: sizes.append(len(labels)) or generate(labels, **kw))
    found = Model(module).compile().sample([0, 1, 2, 3, 4], seeds=3, batch_size=2, ema=0).pixels
    assert sizes == [2, 2, 2]
    assert (found.int() - expected.int()).abs().max() <= 1
    sizes.clear()
    Model(module).compile().sample([0, 1, 2], seeds=3, batch_size=8, ema=0)
    assert sizes == [3]
