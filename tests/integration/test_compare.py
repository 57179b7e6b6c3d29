"""Models side by side: differences that are there and differences that are not, and protocols that do not match."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import jitflow
from jitflow import cli
from jitflow.apps.images.module import JiTLightningModule
from jitflow.checkpoint.formats import write_state
from jitflow.checkpoint.state import ModelState
from jitflow.errors import ConfigError, MissingFileError
from jitflow.evaluation.comparison import compare, short_names
from jitflow.evaluation.evaluate import evaluate
from jitflow.evaluation.plan import Plan
from jitflow.io.files import read_json, write_json
from jitflow.run.comparison_page import draw_samples, score_cells
from jitflow.training.sections import PrecisionOptions

PIXELS = {"reference": "digits:val", "extractors": "pixels:4", "device": "cpu"}
PLAN = Plan(80, ema=0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs with a report each: a model, the same one but for rounding, and another one."""
    root = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    module = JiTLightningModule("JiT-N/4", 16, 10, in_channels=1, num_sampling_steps=2, sampling_method="euler")
    for parameter in module.parameters():
        parameter.data += 0.04 * torch.randn_like(parameter)
    weights = module.state_dict()
    for name, factor in (("first", 1.0), ("alike", 1.0 + 1e-6), ("other", 0.7)):
        path = root / name / "checkpoints" / "last.ckpt"
        path.parent.mkdir(parents=True)
        changed = {key: value * factor for key, value in weights.items()}
        write_state(ModelState(dict(module.hparams), changed, application="images"), path)
        evaluate(path, PLAN, out=root / name / "evaluation", **PIXELS)
    return root


def of(comparison, name):
    return next(score for score in comparison.scores if score.name == name)


def test_a_difference_is_told_from_none(runs):
    found = compare([runs / name / "evaluation" for name in ("first", "alike", "other")])
    assert [candidate.name for candidate in found.candidates] == ["first", "alike", "other"]
    assert not found.differences and found.same_samples
    score = of(found, "frechet_distance")
    alike, other = score.changes
    assert 0 in alike and 0 not in other
    assert score.values[2] - score.values[0] in other
    # Group by group the same seeds agree, so the difference of equal models is known far better than either score.
    assert alike.high - alike.low < 0.01 * (score.intervals[0].high - score.intervals[0].low)
    assert "same seeds" in alike.method
    _, _, _, change, _, other_change = score_cells(score)
    assert change.endswith("not significant") and other_change.endswith(")")


def test_the_command_leaves_a_table_a_page_and_a_picture(runs, tmp_path, capsys):
    paths = [str(runs / name / "checkpoints" / "last.ckpt") for name in ("first", "other")]
    options = ["--seeds", "4", "--steps", "1", "--device", "cpu", "--out", str(tmp_path)]
    assert cli.main(["compare", *options, *paths]) == 0
    text = capsys.readouterr().out
    assert "frechet_distance" in text and "same seeds" in text and "can be compared" in text
    page = (tmp_path / "comparison.html").read_text()
    assert page.count("data:image/png;base64,") == 1 and "frechet_distance" in page and "seed" not in page[:2000]
    # Seeds in rows, models in columns: the first image of each column is that of seed 0.
    drawn = [jitflow.load(path, device="cpu").sample([0], [0], steps=1).pixels[0, 0].numpy() for path in paths]
    with Image.open(tmp_path / "comparison.png") as image:
        picture = np.asarray(image.convert("L"))
    for column, pixels in enumerate(drawn):
        # Both have one size, eight times that of the digits.
        row = np.repeat(pixels[8], 8).astype(int)
        places = [
            (y, x)
            for y, line in enumerate(picture[:256].astype(int))
            for x in range(len(line) - len(row) + 1)
            if np.abs(line[x : x + len(row)] - row).max() <= 1
        ]
        assert len(places) == 8 and (places[0][1] > picture.shape[1] // 2) == bool(column)


def test_other_protocols_are_refused_unless_told(runs, tmp_path, capsys):
    checkpoint = runs / "first" / "checkpoints" / "last.ckpt"
    evaluate(checkpoint, Plan(80, ema=0, steps=1), out=tmp_path / "quick", **PIXELS)
    evaluate(checkpoint, Plan(80, ema=0, steps=1, seed=500), out=tmp_path / "seeds", **PIXELS)
    slow, quick = runs / "first" / "evaluation", tmp_path / "quick"
    with pytest.raises(ConfigError, match=r"--may_differ steps"):
        compare([slow, quick])
    # The number of evaluations follows from the steps.
    told = compare([slow, quick], may_differ=["steps"])
    assert list(told.differences["steps"]) == [2, 1] and told.same_samples
    # Each is drawn as it was evaluated.
    drawn = draw_samples(told.candidates, 1, PrecisionOptions(device="cpu"), {})
    assert [samples.settings["steps"] for samples in drawn.samples.values()] == [2, 1]
    with pytest.raises(ConfigError, match="seed_of_image"):
        compare([quick, tmp_path / "seeds"])
    apart = compare([quick, tmp_path / "seeds"], may_differ=["all"])
    assert not apart.same_samples and "quadrature" in of(apart, "frechet_distance").changes[0].method
    words = ["compare", str(slow), str(quick), "--seeds", "0", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 1 and "--may_differ" in capsys.readouterr().err
    assert cli.main([*words, "--may_differ", "steps"]) == 0
    assert "made differently" in capsys.readouterr().out
    # The run's folder has two reports now: that of the protocol of the other is taken.
    (runs / "first" / "quick").mkdir(exist_ok=True)
    (runs / "first" / "quick" / "report.json").write_bytes((quick / "report.json").read_bytes())
    assert not compare([runs / "first", runs / "other"]).differences


def test_a_report_belongs_to_exactly_these_weights(runs, tmp_path):
    """Weights that were trained on since have no report, and a report no longer has a checkpoint to draw from."""
    shutil.copytree(runs / "first", tmp_path / "first")
    checkpoint = tmp_path / "first" / "checkpoints" / "last.ckpt"
    report = read_json(tmp_path / "first" / "evaluation" / "report.json")
    report["protocol"]["checkpoint"] = str(checkpoint)
    write_json(tmp_path / "report.json", report)
    others = [tmp_path / "report.json", runs / "other" / "evaluation"]
    assert compare(others).candidates[0].checkpoint == checkpoint
    shutil.copy(runs / "other" / "checkpoints" / "last.ckpt", checkpoint)
    assert compare(others).candidates[0].checkpoint is None
    judged = [candidate.report is not None for candidate in compare([tmp_path / "first", runs / "other"]).candidates]
    assert judged == [False, True]


def report_of(scores, trained_on=(), **card):
    return {"metrics": scores, "intervals": {}, "protocol": {"num_images": 8, **card}, "trained_on": list(trained_on)}


def test_reports_without_intervals_marks_and_missing_scores(tmp_path, capsys):
    first = report_of(
        {"gait/share": 0.5, "pixels/copies": 0.0}, ["gait"], reference={"path": "a", "pixels_sha256": "1"}
    )
    second = report_of({"gait/share": 0.75, "pixels/copies": "many"}, reference={"path": "b", "pixels_sha256": "1"})
    for name, report in (("one", first), ("two", second)):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "evaluation.json", report)
    words = ["compare", str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(tmp_path / "out")]
    # Real data are compared by their checksum, wherever they are.
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert "many" not in text
    assert "0.5, trained on" in text and "+0.25, no interval" in text
    assert "trained on" in (tmp_path / "out" / "comparison.html").read_text()
    assert not (tmp_path / "out" / "comparison.png").exists()
    # Another comparison does not replace it.
    assert cli.main(words) == 0 and (tmp_path / "out-2" / "comparison.html").is_file()


def test_samples_of_unknown_seeds_are_no_pairs(tmp_path):
    interval = {"low": 0.4, "high": 0.6, "level": 0.95, "method": "some", "replicates": [0.5, 0.51, 0.49]}
    for name, seeds in (("a", None), ("b", None), ("c", "1"), ("d", "1")):
        write_json(
            tmp_path / f"{name}.json", {**report_of({"x": 0.5}, seeds_sha256=seeds), "intervals": {"x": interval}}
        )
    assert not compare([tmp_path / "a.json", tmp_path / "b.json"]).same_samples
    assert compare([tmp_path / "c.json", tmp_path / "d.json"]).same_samples


def test_mistakes_are_one_line(runs, tmp_path, capsys):
    with pytest.raises(ConfigError, match="at least two"):
        compare([runs / "first"])
    with pytest.raises(MissingFileError, match="none"):
        compare([runs / "first", tmp_path / "none.ckpt"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match=r"evaluation\.json"):
        compare([runs / "first", tmp_path / "empty"])
    (tmp_path / "odd.json").write_text(json.dumps({"no": "report"}))
    with pytest.raises(ConfigError, match="no report"):
        compare([runs / "first", tmp_path / "odd.json"])
    assert cli.main(["compare", str(runs / "first"), "--seeds", "-1"]) == 1
    assert "--seeds" in capsys.readouterr().err


def test_short_names_tell_paths_apart():
    assert short_names(["runs/a/last.ckpt", "runs/b/last.ckpt"]) == ["a", "b"]
    assert short_names(["a.ckpt", "x/a.ckpt"]) == ["a.ckpt", "x/a.ckpt"]
    assert short_names(["same", "same"]) == ["same (1)", "same (2)"]
