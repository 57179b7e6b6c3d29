"""The contract of JiTLightningModule as its documentation states it."""

import inspect
import itertools

import pytest
import torch
import torch.nn.functional as F
from double_network import in_double

from jitflow.apps.images.module import JiTLightningModule
from jitflow.core.seeding import use_seeds
from jitflow.training.outputs import read_outputs

DOCUMENTED = {
    "model_name": "JiT-B/16",
    "img_size": 256,
    "num_classes": 1000,
    "attn_dropout": 0.0,
    "proj_dropout": 0.0,
    "learning_rate": 1e-4,
    "weight_decay": 0.0,
    "ema_decay1": 0.9999,
    "ema_decay2": 0.9996,
    "P_mean": -0.8,
    "P_std": 0.8,
    "noise_scale": 1.0,
    "t_eps": 5e-2,
    "label_drop_prob": 0.1,
    "sampling_method": "heun",
    "num_sampling_steps": 50,
    "cfg_scale": 1.0,
    "cfg_interval": (0.0, 1.0),
}
# What the fixture sets.
TINY = {"model_name": "JiT-N/4", "img_size": 8, "num_classes": 5, "num_sampling_steps": 4}


def test_signature():
    parameters = inspect.signature(JiTLightningModule).parameters
    positional = {n: p.default for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD}
    assert list(positional.items()) == list(DOCUMENTED.items())
    ours = [p for p in parameters.values() if p.kind is not p.POSITIONAL_OR_KEYWORD]
    assert all(p.kind is p.VAR_KEYWORD or (p.kind is p.KEYWORD_ONLY and p.default is not p.empty) for p in ours)


def test_arguments_are_attributes_and_hyperparameters(make_module):
    given = {"noise_scale": 2.0, "cfg_scale": 2.9, "cfg_interval": (0.1, 1.0), "P_mean": -0.4, "t_eps": 0.1}
    module = make_module(**given)
    for name in set(DOCUMENTED) - {"attn_dropout", "proj_dropout"}:
        assert getattr(module, name) == module.hparams[name] == {**DOCUMENTED, **TINY, **given}[name], name
    assert set(DOCUMENTED) <= set(module.hparams)
    assert list(inspect.signature(module.generate).parameters) == ["labels", "use_ema"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sampling_method", "euler"),
        ("sampling_method", "midpoint"),
        ("num_sampling_steps", 7),
        ("cfg_scale", 2.9),
        ("noise_scale", 2.0),
        ("t_eps", 0.5),
        ("time_shift", 3.0),
    ],
)
def test_setting_an_attribute_takes_effect(make_module, name, value):
    module, labels = make_module(), torch.arange(3)

    def draw():
        with use_seeds(range(3)):
            return module.generate(labels, use_ema=False)

    before, original = draw(), getattr(module, name)
    assert torch.equal(draw(), before)
    setattr(module, name, value)
    assert (draw() - before).abs().max() > 1e-3
    setattr(module, name, original)
    assert torch.equal(draw(), before)


def test_setting_the_interval_takes_effect(make_module):
    module = make_module(cfg_scale=3.0)
    results = []
    for interval in ((0.0, 1.0), (0.3, 1.0), (0.9, 1.0)):
        module.cfg_interval = interval
        with use_seeds([1]):
            results.append(module.generate(torch.tensor([2]), use_ema=False))
    assert len({r.sum().item() for r in results}) == 3


def test_forward_accepts_every_form_of_time(make_module):
    module = make_module()
    x, y = torch.randn(2, 3, 8, 8), torch.tensor([0, 1])
    expected = module(x, torch.tensor([0.3, 0.3]), y)
    for t in (0.3, torch.tensor(0.3), torch.full((2, 1, 1, 1), 0.3), torch.tensor([0.3])):
        assert torch.equal(module(x, t, y), expected)
        assert torch.equal(module._forward_sample(x, t, y), module._forward_sample(x, torch.full((2,), 0.3), y))


class Documented(JiTLightningModule):
    """The training step and the solver steps as the documentation prints them."""

    def training_step(self, batch, batch_idx):
        images, labels = batch
        x = images.float() / 127.5 - 1.0

        labels_dropped = self.drop_labels(labels)
        t = self.sample_timestep(x.size(0), device=x.device)

        e = torch.randn_like(x) * self.noise_scale
        z = t * x + (1 - t) * e
        v = (x - z) / (1 - t).clamp_min(self.t_eps)

        x_pred = self(z, t.flatten(), labels_dropped)
        v_pred = (x_pred - z) / (1 - t).clamp_min(self.t_eps)

        loss = F.mse_loss(v_pred, v)
        self.log("train/loss", loss)

        return loss

    def _euler_step(self, z, t, t_next, labels):
        v_pred = self._forward_sample(z, t, labels)
        return z + (t_next - t) * v_pred

    def _heun_step(self, z, t, t_next, labels):
        v_pred_t = self._forward_sample(z, t, labels)
        z_next_euler = z + (t_next - t) * v_pred_t
        v_pred_t_next = self._forward_sample(z_next_euler, t_next, labels)
        v_pred = 0.5 * (v_pred_t + v_pred_t_next)
        return z + (t_next - t) * v_pred


@pytest.mark.parametrize("noise_scale", [1.0, 2.0])
def test_documented_training_step_gives_our_loss(make_module, monkeypatch, noise_scale):
    batch = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8), torch.arange(4)
    noise = torch.randn(4, 3, 8, 8)
    modules = [make_module(cls, noise_scale=noise_scale) for cls in (Documented, JiTLightningModule)]
    monkeypatch.setattr(torch, "randn_like", lambda x: noise)
    losses = []
    for module in modules:
        monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
        # One time inside the clamp.
        monkeypatch.setattr(
            module, "sample_timestep", lambda n, device=None: torch.tensor([0.1, 0.5, 0.7, 0.98]).view(n, 1, 1, 1)
        )
        monkeypatch.setattr(module, "drop_labels", lambda labels: torch.where(labels == 1, 5, labels))
        losses.append(read_outputs(module.training_step(batch, 0)).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[1] > 0


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_documented_steps_give_our_samples(make_module, solver):
    images = []
    for cls in (Documented, JiTLightningModule):
        module = in_double(make_module(cls, sampling_method=solver, cfg_scale=2.0, cfg_interval=(0.1, 1.0)))
        with use_seeds([0, 1]):
            images.append(module.generate(torch.tensor([0, 3]), use_ema=False))
    torch.testing.assert_close(*images, rtol=0, atol=1e-5)


def test_every_documented_method_can_be_overridden(make_module, make_trainer, loader):
    used = set()

    def spy(name):
        def method(self, *args, **kwargs):
            used.add(name)
            return getattr(super(Spy, self), name)(*args, **kwargs)

        return method

    names = (
        "forward",
        "training_step",
        "validation_step",
        "configure_optimizers",
        "drop_labels",
        "sample_timestep",
        "_forward_sample",
        "_euler_step",
        "_heun_step",
    )
    Spy = type("Spy", (JiTLightningModule,), {name: spy(name) for name in names})
    module = make_module(Spy)
    make_trainer(limit_train_batches=1, limit_val_batches=1).fit(module, loader, loader)
    module.generate(torch.tensor([1]), use_ema=False)
    assert used == set(names)


@pytest.mark.parametrize(("solver", "euler", "heun"), [("euler", 4, 0), ("heun", 1, 3), ("midpoint", 0, 0)])
def test_overridden_steps_are_taken_where_the_solver_takes_them(make_module, solver, euler, heun):
    calls = {"euler": [], "heun": []}

    class Counting(JiTLightningModule):
        def _euler_step(self, z, t, t_next, labels):
            calls["euler"].append((t, t_next))
            return super()._euler_step(z, t, t_next, labels)

        def _heun_step(self, z, t, t_next, labels):
            calls["heun"].append((t, t_next))
            return super()._heun_step(z, t, t_next, labels)

    plain, counting = make_module(sampling_method=solver), make_module(Counting, sampling_method=solver)
    images = []
    for module in (plain, counting):
        with use_seeds([3]):
            images.append(in_double(module).generate(torch.tensor([1]), use_ema=False))
    torch.testing.assert_close(*images, rtol=0, atol=1e-5)
    assert (len(calls["euler"]), len(calls["heun"])) == (euler, heun)
    for t, t_next in calls["euler"] + calls["heun"]:
        assert t.ndim == t_next.ndim == 0
        assert t_next - t == 0.25


def test_a_step_set_on_the_instance_is_taken_too(make_module):
    module = make_module(sampling_method="euler")
    module._euler_step = lambda z, t, t_next, labels: z + 1
    with use_seeds([3]):
        shifted = module.generate(torch.tensor([1]), use_ema=False)
    del module._euler_step
    module.num_sampling_steps = 1
    module._forward_sample = lambda z, t, labels: torch.zeros_like(z)
    with use_seeds([3]):
        start = module.generate(torch.tensor([1]), use_ema=False)
    torch.testing.assert_close(shifted, start + 4)


def test_an_overridden_generate_repeats_under_seeds(make_module):
    class Own(JiTLightningModule):
        @torch.no_grad()
        def generate(self, labels, use_ema=True):
            z = torch.randn(len(labels), 3, 8, 8)
            times = torch.linspace(0, 1, 4)
            for t, t_next in itertools.pairwise(times):
                z = self._euler_step(z, t, t_next, labels)
            return z

    module = make_module(Own)
    images = []
    for _ in range(2):
        with use_seeds([1, 2]):
            images.append(module.generate(torch.tensor([0, 1])))
    assert torch.equal(*images)
