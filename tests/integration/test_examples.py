"""The scripts of ``examples/`` run from nothing and leave their pictures."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

TOY = Path(__file__).parents[2] / "examples" / "toy_2d.py"


@pytest.fixture(scope="module")
def toy():
    return runpy.run_path(str(TOY))


def test_toy_draws_its_picture(tmp_path, monkeypatch):
    assert len(TOY.read_text(encoding="utf-8").splitlines()) <= 150
    monkeypatch.setattr(sys, "argv", ["toy_2d.py", str(tmp_path / "out"), "--steps", "20", "--finest", "80"])
    runpy.run_path(str(TOY), run_name="__main__")
    with Image.open(tmp_path / "out" / "toy_2d.png") as picture:
        # Five pictures and more than their frames.
        assert picture.width > 1000 and len(picture.convert("L").getcolors()) > 50


def test_toy_velocity_is_exact(toy):
    """With one pair in reach, the velocity is that of its line; by symmetry it vanishes in the middle."""
    centres = toy["CENTRES"]
    x0 = torch.tensor([[0.3, -0.2], [0.1, 0.5]])
    t = torch.full((2,), 0.9)
    x1 = centres[:2]
    x_t = t[:, None] * x1 + 0.1 * x0
    torch.testing.assert_close(toy["exact_velocity"](x_t, t), x1 - x0, atol=1e-3, rtol=0)
    torch.testing.assert_close(toy["exact_velocity"](torch.zeros(1, 2), t[:1]), torch.zeros(1, 2), atol=1e-5, rtol=0)


def test_toy_measures_the_orders(toy):
    errors = toy["solver_errors"]([40, 80], 640)
    ratio = {name: first / second for name, (first, second) in errors.items()}
    assert 1.7 < ratio["euler"] < 2.4
    assert all(2.8 < ratio[name] < 6 for name in ("heun", "midpoint", "multistep")), ratio
