"""The page without a browser: what it answers, and that it asks for nothing elsewhere."""

import importlib
import json
import threading
from pathlib import Path

import pytest
import torch

from jitflow.studio.drawing import draw
from jitflow.studio.library import Library
from jitflow.studio.request import Request

pytest.importorskip("gradio")
page, answering, results = (
    importlib.import_module(f"jitflow.studio.{name}") for name in ("page", "answer", "result_fields")
)
SIDES = ((0, "euler", 4, 1.0, "0,1", 0.0), (0, "heun", 3, 2.0, "0,1", 0.0))


@pytest.fixture
def library(images, tmp_path):
    checkpoint = {"state_dict": images.state_dict(), "hyper_parameters": dict(images.hparams)}
    images.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "a.ckpt")
    return Library([tmp_path / "a.ckpt"], device="cpu")


def answers(library, *fields):
    return list(answering.answer(library, threading.Event(), library.names[0], *fields, *SIDES[0], *SIDES[1]))


def test_it_draws_two_settings_with_the_same_seeds(library):
    page.build_page(library)
    *parts, last = answers(library, "0,1", 1, 7, True)
    assert "Drawing A: step 1 of 4" in parts[0][0] and "Drawing B" in parts[-1][0]
    last = dict(zip(results.OUTPUTS, last[1:], strict=True))
    drawings = last["drawings"]
    assert [d.record["solver"] for d in drawings] == ["euler", "heun"]
    assert drawings[0].record["seeds"] == drawings[1].record["seeds"] == [7, 8]
    assert last["command"]["value"].count("jitflow sample") == 2
    # The files of one drawing are gone once the page has its copies.
    assert not Path(last["png"]["value"]).exists()
    at_noise = answering.frames_at(drawings, 0)
    assert [side["value"] for side in at_noise] == [drawings[0].frames[0], drawings[1].frames[0]]
    assert at_noise[0]["label"] == "A, t = 0.25" and at_noise[1]["label"] == "B, t = 0.33"
    assert answering.frames_at(drawings[:1], 1)[0]["value"] is drawings[0].grid


def test_files_hold_both_sides(library, tmp_path):
    model = library.open(library.names[0])
    drawings = [draw(model, Request("0,1", ema=0, solver="euler", steps=n)) for n in (2, 3)]
    png, record = answering.save_drawings(drawings, tmp_path)
    assert png.stat().st_size and [r["steps"] for r in json.loads(record.read_text())] == [2, 3]


@pytest.mark.parametrize(("wrong", "said"), [("77", "classes 0 to 4"), ("<b>", "&lt;b&gt;"), ("", "0,3,7-9")])
def test_a_refusal_is_text_and_changes_nothing_else(library, wrong, said):
    (refused,) = answers(library, wrong, 1, 7, False)
    assert "refused" in refused[0] and said in refused[0] and "<b>" not in refused[0]
    assert all(value == page.gr.skip() for value in refused[1:])


def test_nothing_points_outside(library):
    options = page.launch_options(host="127.0.0.1", port=None)
    assert options["share"] is False and options["run_history"] is False and options["mcp_server"] is False
    assert "http" not in json.dumps(options["theme"]._stylesheets)
    assert page.build_page(library).analytics_enabled is False
