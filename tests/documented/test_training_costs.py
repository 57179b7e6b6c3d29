"""What recipes and docs/large_runs.md say of a training's cost follows from the one measured rate."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def costs():
    spec = importlib.util.spec_from_file_location("make_training_costs", ROOT / "docs" / "make_training_costs.py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def stated(costs, name):
    """Largest batch and memory of the state in GiB, as the page has them."""
    (line,) = (line for line in costs.PAGE.read_text().splitlines() if line.startswith(f"| `images/{name}` |"))
    *_, state, batch = (cell.strip() for cell in line.strip("|").split("|"))
    return line, int(batch), float(state.removesuffix(" GiB"))


def test_recipes_and_page_follow_from_the_measured_rate(costs):
    for name in costs.NAMES:
        found = costs.cost(name)
        line, largest, state_gib = stated(costs, name)
        assert line == costs.row(name, found, largest, state_gib)
        assert costs.header(found, largest) in (costs.RECIPES / f"{name}.yaml").read_text()
        assert found.batch <= largest
        assert found.days == pytest.approx(found.operations / (costs.share_of_peak() * costs.PEAK) / 86400)
    assert f"{costs.MEASURED_RATE:,} images/s" in costs.PAGE.read_text()


@pytest.mark.slow
def test_the_batch_is_the_estimate_of_the_memory(costs):
    for name in costs.NAMES:
        needed = costs.memory(name)
        _, largest, state_gib = stated(costs, name)
        assert needed.largest_batch(costs.MEMORY_GIB * 2**30) == largest
        assert needed.state / 2**30 == pytest.approx(state_gib, abs=0.05)
