"""When pictures of a training are drawn, and what they cost, against numbers by hand."""

import pytest

from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks.training_pictures import TrainingPictures, drawing_cost, is_due, num_drawings
from jitflow.errors import ConfigError

NET = {"depth": 2, "hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8}


@pytest.mark.parametrize(
    ("settings", "cost"),
    [
        # 10 Heun steps are 19 evaluations of 8 samples, which cost 8 more; a step is three passes over 32.
        ({"sampling_method": "heun", "num_sampling_steps": 10}, 19 * (8 + 8) / 96),
        # Guidance doubles the passes; of 250 steps 25 are taken.
        ({"sampling_method": "euler", "num_sampling_steps": 250, "cfg_scale": 4.0}, 25 * (2 * 8 + 8) / 96),
    ],
)
def test_the_cost_is_counted_in_steps_of_the_training(settings, cost):
    module = JiTLightningModule("JiT-N/4", 8, 3, net_settings=NET, **settings)
    assert drawing_cost(module, 8, 32) == pytest.approx(cost)


@pytest.mark.parametrize(
    ("total", "every", "due"),
    [
        (10, 4, [5, 10]),
        (7, 7, [7]),
        (100, 30, [34, 67, 100]),
        (3, 4, []),
    ],
)
def test_drawings_are_spread_evenly_and_the_last_is_at_the_end(total, every, due):
    num = num_drawings(total, every)
    assert [step for step in range(1, total + 1) if is_due(step, total, num, every)] == due


def test_a_long_training_has_24_and_one_without_an_end_goes_on():
    num = num_drawings(1_000_000, 10)
    due = [step for step in range(999_000, 1_000_001) if is_due(step, 1_000_000, num, 10)]
    assert num == 24 and due == [1_000_000]
    assert [step for step in range(1, 30) if is_due(step, None, num_drawings(None, 10), 10)] == [10, 20]


@pytest.mark.parametrize("settings", [{"share": -0.1}, {"share": 0.6}, {"num": 0}, {"num": 65}])
def test_numbers_out_of_range_are_named(tmp_path, settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        TrainingPictures(tmp_path, **settings)
