"""The places where applications differ: conditions, hints, loss terms, stochastic sampling, guided channels."""

import pytest
import torch
from torch import nn

from jitflow.codec.pixel import PixelCodec
from jitflow.core.condition import Condition
from jitflow.core.loss import cosine_per_sample, mse_per_sample
from jitflow.core.path import interpolate, renoise
from jitflow.core.seeding import use_seeds
from jitflow.errors import ConfigError
from jitflow.training.flow_settings import FlowSettings
from jitflow.training.module import FlowModule
from jitflow.training.sampling_call import running_call
from jitflow.training.terms import CosineTerm, FlowState

SHAPE = (2, 4, 4)


class Oracle(nn.Module):
    """Predicts one known image whatever it sees, and remembers the hints it was given."""

    def __init__(self, image, takes_hints=False):
        super().__init__()
        self.image = nn.Parameter(image.clone())
        self.self_conditioning = takes_hints
        self.hints = []

    def forward(self, x, t, y, hint=None):
        self.hints.append(None if hint is None else hint.clone())
        return self.image.expand_as(x) * (1 + 0 * y.view(-1, 1, 1, 1))


def module_of(net, loss_terms=(), **settings):
    return FlowModule(
        PixelCodec(SHAPE[1:], SHAPE[0]), net, num_classes=3, settings=FlowSettings(**settings), loss_terms=loss_terms
    )


@pytest.fixture
def image():
    return torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def batch_of(num, seed=1):
    g = torch.Generator().manual_seed(seed)
    x1, noise = (torch.randn(num, *SHAPE, generator=g) for _ in range(2))
    return x1, torch.zeros(num, dtype=torch.int64), torch.linspace(0.1, 0.8, num), noise


def test_cosine_is_taken_over_channels():
    target = torch.randn(3, 5, 2, 2)
    assert torch.allclose(cosine_per_sample(3 * target, target), torch.zeros(3), atol=1e-6)
    assert torch.allclose(cosine_per_sample(-target, target), torch.full((3,), 2.0), atol=1e-6)
    a = torch.tensor([[1.0, 0.0]]).view(1, 2, 1, 1).expand(1, 2, 2, 2).clone()
    b = torch.tensor([[0.0, 2.0]]).view(1, 2, 1, 1).expand(1, 2, 2, 2).clone()
    b[..., 0, 0] = a[..., 0, 0]
    # Three of four places are orthogonal, one is parallel.
    assert cosine_per_sample(a, b).item() == pytest.approx(0.75)
    with pytest.raises(ConfigError, match="shape"):
        cosine_per_sample(a, b[:, :1])


def test_loss_terms_are_added_with_their_weight(image):
    seen = []

    class Term:
        name, weight = "seen", 3.0

        def __call__(self, state):
            seen.append(state)
            return torch.arange(len(state.t), dtype=torch.float32)

    x1, labels, t, noise = batch_of(4)
    plain = module_of(Oracle(image)).flow_loss(x1, labels, t, noise)
    module = module_of(Oracle(image), loss_terms=[Term(), CosineTerm(0.5)], velocity_weight=2.0)
    parts = module.loss_parts(x1, labels, t, noise, data="the data")
    assert list(parts) == ["velocity", "seen", "cosine"]
    assert torch.equal(parts["velocity"], 2 * plain)
    assert torch.equal(parts["seen"], 3 * torch.arange(4.0))
    state = seen[0]
    assert isinstance(state, FlowState) and state.data == "the data"
    torch.testing.assert_close(parts["cosine"], 0.5 * cosine_per_sample(state.v_pred, state.v_t))
    total = module.flow_loss(x1, labels, t, noise)
    torch.testing.assert_close(total, sum(parts.values()))
    with pytest.raises(ConfigError, match="negative"):
        CosineTerm(-1)


def test_known_parts_are_shown_clean_and_do_not_count(image):
    net = Oracle(image)
    module = module_of(net)
    x1, labels, t, noise = batch_of(3)
    mask = torch.zeros(3, 1, 4, 4, dtype=torch.bool)
    mask[:, :, :2] = True
    states = []
    module.forward = lambda x, s, y, hint=None: states.append(x.clone()) or image.expand_as(x)
    loss = module.flow_loss(x1, labels, t, noise, condition=Condition(known=x1, mask=mask))
    x_t = interpolate(noise, x1, t)
    assert torch.equal(states[0][:, :, :2], x1[:, :, :2]) and torch.equal(states[0][:, :, 2:], x_t[:, :, 2:])
    scale = (1 - t).view(-1, 1, 1, 1).clamp_min(0.05)
    error = (image - x1) / scale
    torch.testing.assert_close(loss, error[:, :, 2:].square().flatten(1).mean(1))


def test_loss_weight_of_the_data_is_used_and_combined_with_the_condition(image):
    class Weighted(FlowModule):
        def loss_weight(self, data):
            return data

    x1, labels, t, noise = batch_of(2)
    weight = torch.rand(2, 1, 4, 4)
    module = Weighted(PixelCodec(SHAPE[1:], SHAPE[0]), Oracle(image), num_classes=3)
    error = (image - x1) / (1 - t).view(-1, 1, 1, 1).clamp_min(0.05)
    torch.testing.assert_close(
        module.flow_loss(x1, labels, t, noise, data=weight),
        mse_per_sample(error, torch.zeros_like(error), weight=weight),
    )
    mask = torch.rand(2, 1, 4, 4) < 0.5
    both = weight * ~mask
    torch.testing.assert_close(
        module.flow_loss(x1, labels, t, noise, data=weight, condition=Condition(known=x1, mask=mask)),
        mse_per_sample(error, torch.zeros_like(error), weight=both),
    )


def test_hints_in_training_are_the_networks_own_estimate(image):
    net = Oracle(image, takes_hints=True)
    module = module_of(net)
    x1, labels, t, noise = batch_of(2)
    module.flow_loss(x1, labels, t, noise)
    assert len(net.hints) == 2 and not net.hints[0].any()
    torch.testing.assert_close(net.hints[1], image.expand(2, *SHAPE))
    net.hints.clear()
    module.flow_loss(x1, labels, t, noise, estimate=False)
    assert len(net.hints) == 1 and not net.hints[0].any()


@pytest.mark.parametrize(("prob", "passes"), [(0.0, 1), (1.0, 2)])
def test_share_of_batches_with_an_estimate(image, prob, passes):
    net = Oracle(image, takes_hints=True)
    module = module_of(net, self_conditioning_prob=prob)
    module.log = module.log_dict = lambda *args, **kwargs: None
    data = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    module.training_step((data, torch.zeros(2, dtype=torch.int64)), 0)
    assert len(net.hints) == passes


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("solver", ["euler", "heun", "midpoint", "multistep"])
def test_sampling_carries_the_estimate_and_the_known_part(image, solver, scale):
    net = Oracle(image, takes_hints=True)
    module = module_of(net, sampling_method=solver, num_sampling_steps=4, cfg_scale=scale)
    known = torch.full((2, *SHAPE), 0.25)
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    mask[..., 0] = True
    condition = Condition(label=torch.tensor([0, 1]), known=known, mask=mask)
    with use_seeds([3, 4]):
        x = module.generate_condition(condition, use_ema=False)
    torch.testing.assert_close(x[..., 0], known[..., 0])
    torch.testing.assert_close(x[..., 1:], image.expand(2, *SHAPE)[..., 1:], atol=1e-4, rtol=0)
    first, second = net.hints[0], net.hints[1]
    assert len(first) == (2 if scale == 1 else 4)
    torch.testing.assert_close(first[..., 0], torch.full_like(first[..., 0], 0.25))
    assert not first[..., 1:].any()
    torch.testing.assert_close(second[..., 1:], image.expand_as(second)[..., 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(second[..., 0], first[..., 0])
    # Nothing of one sample is left for the next.
    assert running_call(module) is None


def test_networks_without_hints_get_none(image):
    net = Oracle(image)
    module = module_of(net)
    x1, labels, t, noise = batch_of(2)
    module.flow_loss(x1, labels, t, noise)
    module.generate(labels, use_ema=False)
    assert all(hint is None for hint in net.hints)


def test_renoised_states_have_the_statistics_of_the_path():
    g = torch.Generator().manual_seed(0)
    x1 = torch.full((200_000,), 0.7)
    noise, fresh = (1.5 * torch.randn(len(x1), generator=g) for _ in range(2))
    t, back = torch.full((len(x1),), 0.6), torch.full((len(x1),), 0.2)
    x = renoise(interpolate(noise, x1, t), t, back, fresh / 1.5, noise_scale=1.5)
    assert x.mean().item() == pytest.approx(0.2 * 0.7, abs=0.01)
    assert x.std().item() == pytest.approx(0.8 * 1.5, rel=0.01)
    # Not at all back: nothing changes; all the way: only noise is left.
    torch.testing.assert_close(renoise(x, t, t, fresh), x)
    torch.testing.assert_close(renoise(x, t, torch.zeros_like(t), fresh), fresh)


def test_churn_is_named_by_the_seed_and_needs_a_one_step_solver():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(0.5))

        def forward(self, x, t, y):
            return self.weight * x.tanh()

    module = module_of(Half(), sampling_method="euler", num_sampling_steps=8)
    labels = torch.zeros(3, dtype=torch.int64)

    def sample(seeds):
        with use_seeds(seeds):
            return module.generate(labels[: len(seeds)], use_ema=False)

    still = sample([1, 2, 3])
    module.churn = 0.5
    stirred = sample([1, 2, 3])
    assert (stirred - still).abs().max() > 0.05
    torch.testing.assert_close(sample([3]), stirred[2:], atol=1e-5, rtol=0)
    torch.testing.assert_close(sample([1, 2, 3]), stirred)
    for wrong, message in ((-1, "churn"), (float("nan"), "churn")):
        module.churn = wrong
        with pytest.raises(ConfigError, match=message):
            sample([1])
    with pytest.raises(ConfigError, match="multistep"):
        module_of(Half(), sampling_method="multistep", churn=0.5)


def test_an_oracle_is_not_disturbed_by_churn(image):
    module = module_of(Oracle(image), sampling_method="euler", num_sampling_steps=6, churn=1.5)
    x = module.generate(torch.tensor([0, 1]), use_ema=False)
    torch.testing.assert_close(x, image.expand(2, *SHAPE), atol=1e-4, rtol=0)


def test_guided_channels():
    class Labelled(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x, t, y):
            return (y.float() + 1).view(-1, 1, 1, 1) * self.weight.expand_as(x)

    module = module_of(Labelled(), prediction="velocity", cfg_scale=2.0, cfg_channels=1)
    v = module._forward_sample(torch.zeros(1, *SHAPE), 0.5, torch.tensor([0]))
    # Label 0 says 1, the null label 4: guided 4 + 2 (1 - 4) = -2, unguided 1.
    assert v[0, 0].unique().tolist() == [-2] and v[0, 1].unique().tolist() == [1]
    for wrong in (0, 3):
        with pytest.raises(ConfigError, match="cfg_channels"):
            module_of(Labelled(), cfg_channels=wrong)
