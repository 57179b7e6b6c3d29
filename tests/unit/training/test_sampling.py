"""Sampling through the module: seeds, averages, precision, what is known, what is refused."""

import copy
import warnings

import pytest
import torch

from jitflow.apps.images.module import JiTLightningModule
from jitflow.core.condition import Condition
from jitflow.core.ema import copy_parameters
from jitflow.core.guidance_rules import AdaptiveProjectedGuidance
from jitflow.core.seeding import noise_from_seeds, use_seeds
from jitflow.errors import ConfigError
from jitflow.model import Model


def draw(module, seeds, use_ema=False, labels=None):
    labels = torch.tensor([seed % 5 for seed in seeds]) if labels is None else labels
    with use_seeds(seeds):
        return module.generate(labels, use_ema=use_ema)


def give_averages(module):
    """Averages far from the weights."""
    generator = torch.Generator().manual_seed(5)
    for averages in (module.ema_params1, module.ema_params2):
        averages.update(copy_parameters(dict(module.named_parameters())))
        for name, average in averages.items():
            if "pos_embed" not in name:
                average.add_(0.1 * torch.randn(average.shape, generator=generator))


@pytest.mark.parametrize("solver", ["heun", "multistep"])
def test_a_seed_names_an_image_at_any_batch_size(make_module, solver):
    module = make_module(sampling_method=solver, cfg_scale=2.0, cfg_interval=(0.1, 1.0))
    together = draw(module, range(8))
    assert together.std() > 0.1
    for size in (1, 3):
        apart = torch.cat([draw(module, range(8)[i : i + size]) for i in range(0, 8, size)])
        assert (apart - together).abs().max() < 1e-4
    assert (draw(module, [3, 5]) - together[[3, 5]]).abs().max() < 1e-4
    assert (together[1:] - together[:-1]).abs().amax((1, 2, 3)).min() > 1e-2


def test_without_seeds_images_are_fresh_and_follow_the_global_generator(make_module):
    module, labels = make_module(), torch.tensor([1, 1])
    torch.manual_seed(3)
    first = module.generate(labels, use_ema=False)
    assert not torch.equal(first, module.generate(labels, use_ema=False))
    assert not torch.equal(first[0], first[1])
    torch.manual_seed(3)
    assert torch.equal(first, module.generate(labels, use_ema=False))


def test_a_null_label_that_was_never_trained_is_not_sampled(make_module):
    module = make_module(label_drop_prob=0.0, cfg_scale=2.0)
    with pytest.raises(ConfigError, match="label_drop_prob"):
        draw(module, [0])
    with pytest.raises(ConfigError, match="guidance"):
        Model(module).sample([0], ema=0)
    module.cfg_scale = 1.0
    assert len(draw(module, [0, 1])) == 2
    with pytest.raises(ConfigError, match=r"label 5 .*label_drop_prob"):
        draw(module, [0], labels=torch.tensor([5]))
    for labels in ("0,5", [0, 5]):
        with pytest.raises(ConfigError, match=r"label 5 .*label_drop_prob"):
            Model(module).ask(labels)


def test_starts_from_scaled_noise_and_ends_in_float32(make_module):
    starts = []

    class Watching(JiTLightningModule):
        def _forward_sample(self, z, t, labels):
            starts.append(z)
            return torch.zeros_like(z)

    module = make_module(Watching, noise_scale=2.5)
    images = draw(module, [4, 9])
    assert torch.equal(starts[0], 2.5 * noise_from_seeds((3, 8, 8), [4, 9]))
    assert torch.equal(images, starts[0])


def test_rectangular_grey_images(make_module):
    module = make_module(img_size=(8, 16), in_channels=1)
    assert draw(module, [0, 1]).shape == (2, 1, 8, 16)


def test_guidance_costs_a_second_pass_only_where_it_acts(make_module):
    module = make_module(sampling_method="euler", num_sampling_steps=10)
    sizes = []
    module.net.register_forward_hook(lambda net, args, out: sizes.append(len(out)))
    draw(module, [0, 1, 2])
    assert sizes == [3] * 10
    sizes.clear()
    module.cfg_scale, module.cfg_interval = 2.0, (0.1, 0.5)
    draw(module, [0, 1, 2])
    assert sizes == [3, 3, 6, 6, 6, 3, 3, 3, 3, 3]


def test_guidance_of_the_null_class_changes_only_rounding(make_module):
    module, labels = make_module(), torch.tensor([5, 5])
    plain = draw(module, [0, 1], labels=labels)
    module.cfg_scale = 3.0
    torch.testing.assert_close(draw(module, [0, 1], labels=labels), plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("prediction", "scale"), [("data", 2.0), ("velocity", 1.0)])
@pytest.mark.parametrize("net_only", [True, False])
def test_state_velocity_and_time_are_float32_whatever_the_network_is(make_module, net_only, prediction, scale):
    seen = set()

    class Watching(JiTLightningModule):
        def forward(self, x, t, y):
            out = super().forward(x, t, y)
            seen.add(("forward", x.dtype, t.dtype, out.dtype))
            return out

        def _forward_sample(self, z, t, labels):
            v = super()._forward_sample(z, t, labels)
            seen.add(("sample", z.dtype, t.dtype, v.dtype))
            return v

    module = make_module(Watching, cfg_scale=scale, prediction=prediction)
    reference = draw(module, [0, 1])
    seen.clear()
    (module.net if net_only else module).to(torch.bfloat16)
    images = draw(module, [0, 1])
    f32, b16 = torch.float32, torch.bfloat16
    assert seen == {("forward", f32, f32, b16), ("sample", f32, f32, f32)}
    assert images.dtype == torch.float32
    assert ((images - reference).abs().max() / reference.abs().max()).item() < 0.2
    # Rounding of a bfloat16 state would show as few distinct values.
    assert not torch.equal(images, images.bfloat16().float())


def test_averages_are_used_and_put_back(make_module):
    module = make_module()
    give_averages(module)
    twin = make_module()
    twin.load_state_dict({**module.state_dict(), **module.ema_params1})
    weights = {name: (p, p.data_ptr(), p.detach().clone()) for name, p in module.named_parameters()}
    raw, ema = draw(module, [0, 1]), draw(module, [0, 1], use_ema=True)
    assert torch.equal(ema, draw(twin, [0, 1]))
    assert (ema - raw).abs().max() > 1e-2
    for name, p in module.named_parameters():
        before, pointer, value = weights[name]
        assert p is before
        assert p.data_ptr() == pointer
        assert torch.equal(p, value)
    with module.ema_weights(2):
        second = draw(module, [0, 1])
    assert (second - ema).abs().max() > 1e-2


def test_weights_and_mode_are_put_back_when_sampling_fails(make_module):
    class Failing(JiTLightningModule):
        calls = 0

        def _forward_sample(self, z, t, labels):
            self.calls += 1
            if self.calls == 3:
                raise RuntimeError("in the middle")
            return super()._forward_sample(z, t, labels)

    module = make_module(Failing)
    give_averages(module)
    state = copy.deepcopy(module.state_dict())
    averages = copy.deepcopy(module.ema_params1)
    assert module.training
    with pytest.raises(RuntimeError, match="in the middle"):
        draw(module, [0], use_ema=True)
    assert module.training
    assert module.net.blocks[0].training
    torch.testing.assert_close(module.state_dict(), state, rtol=0, atol=0)
    torch.testing.assert_close(module.ema_params1, averages, rtol=0, atol=0)


def test_generate_samples_in_evaluation_mode(make_module):
    module = make_module(attn_dropout=0.5, proj_dropout=0.5)
    assert module.training
    assert torch.equal(draw(module, [0]), draw(make_module(), [0]))
    assert module.training
    module.eval()
    draw(module, [0])
    assert not module.training


def test_averages_under_autocast(make_module):
    """Autocast caches half-precision copies by parameter; after an exchange of storage they would be stale."""
    module = make_module()
    give_averages(module)
    twin = make_module()
    twin.load_state_dict({**module.state_dict(), **module.ema_params1})
    with torch.autocast("cpu", torch.bfloat16):
        expected = draw(twin, [0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        raw = draw(module, [0, 1])
        ema = draw(module, [0, 1], use_ema=True)
        raw_again = draw(module, [0, 1])
    assert torch.equal(ema, expected)
    assert torch.equal(raw, raw_again)
    assert (raw - ema).abs().max() > 1e-2


def test_averages_stay_float32_when_the_module_does_not(make_module):
    module = make_module()
    give_averages(module)
    module.to(torch.bfloat16)
    assert {a.dtype for a in module.ema_params1.values()} == {torch.float32}
    assert draw(module, [0], use_ema=True).dtype == torch.float32
    assert module.net.pos_embed.dtype == torch.bfloat16


def test_without_an_average_one_warning_and_the_weights(make_module):
    module = make_module()
    with pytest.warns(UserWarning, match="no EMA yet"):
        images = draw(module, [0], use_ema=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(draw(module, [0], use_ema=True), images)
        assert torch.equal(draw(module, [0]), images)


@pytest.mark.parametrize("version", [0, 3, "1"])
def test_unknown_version_of_the_average(make_module, version):
    with pytest.raises(ConfigError, match="ema_version"), make_module().ema_weights(version):
        pass


def test_an_average_that_is_not_there(make_module):
    with pytest.raises(ConfigError, match="no EMA 2"), make_module().ema_weights(2):
        pass


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 6]), "label 6 .*classes 0 to 4"),
        (torch.tensor([-1]), "label -1 is out of range"),
        (torch.tensor([0.0, 1.0]), "whole numbers"),
        (torch.tensor([[0, 1]]), r"shape \(B,\); got \(1, 2\)"),
        (torch.tensor(1), "whole numbers"),
    ],
)
def test_bad_labels(make_module, labels, message):
    with pytest.raises(ConfigError, match=message):
        make_module().generate(labels)


def test_good_labels_of_other_kinds(make_module):
    module = make_module()
    expected = draw(module, [0, 1], labels=torch.tensor([1, 5]))
    assert torch.equal(draw(module, [0, 1], labels=[1, 5]), expected)
    assert torch.equal(draw(module, [0, 1], labels=torch.tensor([1, 5], dtype=torch.int32)), expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("sampling_method", "huen", "did you mean heun"),
        ("num_sampling_steps", 0, "at least 1"),
        ("cfg_interval", (0.9, 0.1), "interval"),
        ("time_shift", 0.0, "positive"),
    ],
)
def test_bad_settings_are_refused_when_made_and_when_set(make_module, name, value, message):
    with pytest.raises(ConfigError, match=message):
        make_module(**{name: value})
    module = make_module()
    setattr(module, name, value)
    with pytest.raises(ConfigError, match=message):
        module.generate(torch.tensor([0]), use_ema=False)


@pytest.mark.parametrize(
    ("name", "value"), [("label_drop_prob", 1.5), ("t_eps", 0.0), ("learning_rate", 0.0), ("time_kind", "cosine")]
)
def test_bad_settings_of_the_training(make_module, name, value):
    with pytest.raises(ConfigError):
        module = make_module(**{name: value})
        module.sample_timestep(1)


@pytest.mark.parametrize("solver", ["heun", "euler", "multistep"])
@pytest.mark.parametrize("overridden", [False, True])
def test_the_known_part_stays_at_every_step(make_module, solver, overridden):
    class Own(JiTLightningModule):
        def _euler_step(self, z, t, t_next, labels):
            return super()._euler_step(z, t, t_next, labels)

    module = make_module(Own if overridden else JiTLightningModule, sampling_method=solver)
    known = torch.rand(2, 3, 8, 8)
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., :4] = True
    states = []
    with use_seeds([0, 1]), module.watch_sampling(lambda *args: states.append(args[3])):
        images = module.generate_condition(Condition(label=torch.tensor([0, 1]), known=known, mask=mask), use_ema=False)
    assert len(states) == 4
    for state in states:
        assert torch.equal(state[..., :4], known[..., :4])
    free = draw(module, [0, 1], labels=torch.tensor([0, 1]))
    assert not torch.allclose(images[..., 4:], known[..., 4:])
    # What is known has a say in what is drawn.
    assert (images[..., 4:] - free[..., 4:]).abs().max() > 1e-3


def test_sampling_needs_a_label(make_module):
    with pytest.raises(ConfigError, match="label"):
        make_module().generate_condition(Condition())


def test_watching(make_module):
    module, seen = make_module(), []
    with module.watch_sampling(lambda done, total, time, state: seen.append((done, total, time))):
        draw(module, [0])
    draw(module, [0])
    assert seen == [(1, 4, 0.25), (2, 4, 0.5), (3, 4, 0.75), (4, 4, 1.0)]


def test_watchers_nest(make_module):
    module, seen = make_module(), []
    with module.watch_sampling(lambda done, *_: seen.append(f"outer {done}")):
        with module.watch_sampling(lambda done, *_: seen.append(f"inner {done}")):
            draw(module, [0])
        assert seen == [f"{who} {done}" for done in (1, 2, 3, 4) for who in ("outer", "inner")]
        seen.clear()
        draw(module, [0])
    draw(module, [0])
    assert seen == [f"outer {done}" for done in (1, 2, 3, 4)]


def test_the_memory_of_a_guidance_rule_is_that_of_one_trajectory(make_module):
    module = make_module(sampling_method="euler", guidance_rule="apg", apg_eta=1.0, apg_momentum=-0.5, cfg_scale=2.0)
    module.eval()
    labels = torch.tensor([0, 3])
    null = torch.full_like(labels, module.num_classes)
    for _ in range(2):
        with use_seeds([1, 2]), torch.no_grad():
            drawn = module.generate(labels, use_ema=False)
            x = module.noise_scale * noise_from_seeds((3, 8, 8), [1, 2])
            rule = AdaptiveProjectedGuidance(eta=1.0, momentum=-0.5)
            for step in range(4):
                t = torch.full((2,), step / 4)
                cond, uncond = (module.plain_velocity(x, t, y) for y in (labels, null))
                x = x + rule(cond, uncond, torch.full((2,), 2.0), x, t) / 4
        torch.testing.assert_close(drawn, x, atol=1e-4, rtol=1e-4)
