"""Rules of guidance against independent formulas: plain, APG, CFG-Zero*, and a weaker model in place of no class."""

import math

import pytest
import torch

from jitflow.core.guidance import guided_velocity
from jitflow.core.guidance_rules import RULES, AdaptiveProjectedGuidance, build_rule, cfg, cfg_zero
from jitflow.errors import ConfigError

G = torch.Generator().manual_seed(0)
# As many samples as the last dimension is long.
X, COND, UNCOND = (torch.randn(4, 3, 4, generator=G, dtype=torch.float64) for _ in range(3))
T = torch.tensor([0.1, 0.4, 0.7, 0.9], dtype=torch.float64)
W = torch.tensor([1.0, 1.5, 2.0, 4.0], dtype=torch.float64)


@pytest.mark.parametrize("name", RULES)
def test_weight_one_is_the_conditional_velocity(name):
    rule = build_rule(name, eta=0.3, norm=0.2)
    torch.testing.assert_close(rule(COND, UNCOND, torch.ones(4, dtype=torch.float64), X, T), COND)
    at_zero = torch.zeros(4, dtype=torch.float64)
    torch.testing.assert_close(rule(COND, UNCOND, torch.ones(4, dtype=torch.float64), X, at_zero), COND)


def test_apg_without_its_changes_is_plain_guidance():
    torch.testing.assert_close(AdaptiveProjectedGuidance(eta=1.0)(COND, UNCOND, W, X, T), cfg(COND, UNCOND, W, X, T))


def test_apg_removes_what_is_along_the_prediction():
    """Sample by sample with lists of numbers, by the definition of a projection."""
    eta, norm = 0.25, 0.3
    got = AdaptiveProjectedGuidance(eta=eta, norm=norm)(COND, UNCOND, W, X, T)
    for i in range(4):
        left, weight = 1 - T[i].item(), W[i].item()
        data = [(x + left * v) for x, v in zip(X[i].flatten().tolist(), COND[i].flatten().tolist(), strict=True)]
        pairs = zip(COND[i].flatten().tolist(), UNCOND[i].flatten().tolist(), strict=True)
        difference = [left * (v - u) for v, u in pairs]
        size = math.sqrt(sum(d * d for d in difference) / len(difference))
        difference = [d * min(1.0, norm / size) for d in difference]
        unit = [d / math.sqrt(sum(e * e for e in data)) for d in data]
        length = sum(d * u for d, u in zip(difference, unit, strict=True))
        change = [d - (1 - eta) * length * u for d, u in zip(difference, unit, strict=True)]
        # The data prediction moves by (w - 1) times the change.
        moved = [d + (weight - 1) * c for d, c in zip(data, change, strict=True)]
        expected = [(m - x) / left for m, x in zip(moved, X[i].flatten().tolist(), strict=True)]
        torch.testing.assert_close(got[i].flatten(), torch.tensor(expected, dtype=torch.float64))


def test_apg_across_only_is_orthogonal_to_the_prediction():
    guided = AdaptiveProjectedGuidance()(COND, UNCOND, W, X, T)
    left = (1 - T).view(-1, 1, 1)
    products = (left * (guided - COND) * (X + left * COND)).flatten(1).sum(1)
    assert products.abs().max() < 1e-12


def test_apg_adds_earlier_differences_of_its_trajectory():
    rule = AdaptiveProjectedGuidance(eta=1.0, momentum=-0.5)
    first, second = (rule(COND, UNCOND, W, X, T) for _ in range(2))
    torch.testing.assert_close(first, cfg(COND, UNCOND, W, X, T))
    # d, then d - 0.5 d: half of the guidance.
    torch.testing.assert_close(second, COND + 0.5 * (first - COND))
    third = rule(COND, UNCOND, W, X, T)
    torch.testing.assert_close(third, COND + 0.75 * (first - COND))


def test_cfg_zero_scales_the_unconditional_velocity_by_least_squares():
    got = cfg_zero(COND, UNCOND, W, X, T)
    for i in range(4):
        scale = torch.linalg.lstsq(UNCOND[i].reshape(-1, 1), COND[i].reshape(-1, 1)).solution.item()
        expected = scale * UNCOND[i] + W[i] * (COND[i] - scale * UNCOND[i])
        torch.testing.assert_close(got[i], expected)
    # Of parallel velocities guidance changes nothing, however strong.
    torch.testing.assert_close(cfg_zero(COND, 0.3 * COND, W, X, T), COND)
    start = torch.tensor([0.0, 0.0, 0.5, 0.0], dtype=torch.float64)
    at_start = cfg_zero(COND, UNCOND, W, X, start)
    torch.testing.assert_close(at_start[0], COND[0])
    assert not at_start[1].any() and at_start[2].any() and not at_start[3].any()


def test_a_weaker_model_takes_the_place_of_no_class():
    asked = []

    def strong(x, t, y):
        asked.append(("strong", y.tolist()))
        return 2 * x

    def weak(x, t, y):
        asked.append(("weak", y.tolist()))
        return 0.5 * x

    label = torch.tensor([0, 1, 2, 0])
    t = torch.full((4,), 0.5)
    v = guided_velocity(strong, X, t, label, null_label=9, scale=3.0, weak=weak)
    torch.testing.assert_close(v, 0.5 * X + 3 * 1.5 * X)
    assert asked == [("strong", [0, 1, 2, 0]), ("weak", [0, 1, 2, 0])]
    # Outside of the interval the weak model is not asked.
    v = guided_velocity(strong, X, t, label, null_label=9, scale=3.0, interval=(0.6, 1.0), weak=weak)
    torch.testing.assert_close(v, 2 * X)
    assert len(asked) == 3


def test_what_is_no_rule_is_named():
    with pytest.raises(ConfigError, match="guidance_rule"):
        build_rule("cfgg")
    for numbers in ({"norm": -1.0}, {"momentum": 1.0}, {"momentum": -1.5}):
        with pytest.raises(ConfigError, match="apg_"):
            build_rule("apg", **numbers)
