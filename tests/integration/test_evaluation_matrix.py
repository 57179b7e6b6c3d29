"""The evaluation matrix: one set of samples a row, read once by every extractor; as resumable as single scores."""

from __future__ import annotations

import json
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch

from jitflow import cli
from jitflow.apps.images.module import JiTLightningModule
from jitflow.checkpoint.formats import write_state
from jitflow.checkpoint.state import ModelState
from jitflow.errors import ConfigError
from jitflow.evaluation import parts
from jitflow.evaluation import scores as scores_module
from jitflow.evaluation.evaluate import evaluate
from jitflow.evaluation.extractors import make_extractor
from jitflow.evaluation.frechet_samples import FrechetSample
from jitflow.evaluation.intervals import Interval
from jitflow.evaluation.matrix import print_report
from jitflow.evaluation.plan import Plan
from jitflow.evaluation.rows import ScoringOptions, evaluation_rows
from jitflow.evaluation.scores import fdr
from jitflow.model import load

SPACES = "pixels:4,digits-rotation,digits"
MATRIX = ScoringOptions(matrix=True)
SETTINGS = {"reference": "digits", "extractors": SPACES, "scoring": MATRIX, "device": "cpu"}
PLAN = Plan(80, batch_size=40, steps=2)


def make_module(num_classes=10, **settings):
    torch.manual_seed(0)
    module = JiTLightningModule("JiT-N/4", 16, num_classes, in_channels=1, sampling_method="euler", **settings)
    for parameter in module.parameters():
        parameter.data += 0.04 * torch.randn_like(parameter)
    return module


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    module = make_module(cfg_scale=2.0)
    weights = module.state_dict()
    ema = {name: value * 0.9 for name, value in weights.items()}
    path = tmp_path_factory.mktemp("model") / "model.ckpt"
    return write_state(ModelState(dict(module.hparams), weights, ema1=ema, ema2=weights), path)


@pytest.fixture(scope="module")
def matrix(checkpoint, tmp_path_factory):
    """A report and its folder, with what every call of the extraction was asked for."""
    asked, real = [], parts.extract
    out = tmp_path_factory.mktemp("evaluated") / "matrix"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "extract", lambda *args: asked.append((args[1], args[2], list(args[3]))) or real(*args))
        patch.setattr(parts, "MIN_IMAGES_IN_PART", 40)
        report = evaluate(checkpoint, PLAN, out=out, **SETTINGS)
    return report, out, asked


def test_rows_and_spaces_are_named_and_every_extractor_reads_the_same_samples(matrix):
    report, _, asked = matrix
    rows = ["guided,balanced", "guided,random", "unguided,balanced", "unguided,random"]
    spaces = ["pixels", "digits-rotation", "digits"]
    names = [name.split("/") for name in report["metrics"]]
    assert list(dict.fromkeys(row for row, *_ in names)) == rows
    assert list(dict.fromkeys(space for _, space, _ in names)) == [*spaces, "fdr3", "thumbnails"]
    # Two parts of each row, each drawn once for all extractors.
    assert [(index.start, given) for _, index, given in asked] == [(0, spaces), (40, spaces)] * 4
    card = report["protocol"]
    assert card["guidance"] == dict(zip(rows, [2.0, 2.0, 1.0, 1.0], strict=True))
    assert card["class_of_image"]["guided,balanced"] == "index % num_classes" and card["num_images"] == 80
    assert card["extractor"]["digits-rotation"] == "digits-rotation-cnn"
    assert card["preprocessing"]["pixels"]["size_px"] == [4, 4]
    assert card["reference"]["num_images"] == 1438 and card["validation"]["num_images"] == 359
    assert card["validation_compared_images"] == 80


def test_a_cell_is_the_score_of_an_evaluation_of_its_own(checkpoint, matrix, tmp_path):
    report, *_ = matrix
    plan = replace(PLAN, guidance=1.0)
    alone = evaluate(checkpoint, plan, reference="digits", extractors="pixels:4", device="cpu", out=tmp_path)
    before = "unguided,balanced/pixels/"
    cells = {name.removeprefix(before): v for name, v in report["metrics"].items() if name.startswith(before)}
    own = [{n: v for n, v in alone[part].items() if "/" not in n} for part in ("metrics", "intervals")]
    assert own[0] == pytest.approx(cells, rel=1e-6)
    assert set(own[1]) == {n.removeprefix(before) for n in report["intervals"] if n.startswith(before)}
    random = {name.split("/")[-1]: v for name, v in report["metrics"].items() if name.startswith("unguided,random/pix")}
    assert random["frechet_distance"] != cells["frechet_distance"]


def test_every_score_lies_in_its_interval_and_ratios_have_equal_counts(matrix):
    report, *_ = matrix
    metrics = report["metrics"]
    for name, record in report["intervals"].items():
        assert metrics[name] in Interval.from_record(record), name
    scores = {name.split("/")[-1] for name in metrics}
    assert {"kid", "precision", "recall", "density", "coverage", "frechet_ratio", "geometric"} <= scores
    without = {name.split("/")[-1] for name in metrics if name not in report["intervals"]}
    assert without == {"kid_std", "frechet_distance_bias"}
    cell = "guided,random/digits/"
    # All samples are compared with as many validation images, so the ratio is that of the two columns.
    expected = metrics[f"{cell}frechet_distance"] / metrics[f"{cell}frechet_validation"]
    assert metrics[f"{cell}frechet_ratio"] == pytest.approx(expected)
    ratios = [value for name, value in metrics.items() if name.startswith("guided,random/") and "ratio" in name]
    assert metrics["guided,random/fdr3/arithmetic"] == pytest.approx(sum(ratios) / 3)
    assert any("of 80 images are too large" in warning for warning in report["warnings"])


def test_pictures_for_people(matrix, capsys):
    report, out, _ = matrix
    files = {path.name for path in out.iterdir() if path.is_file()}
    assert files == {"report.json", "protocol.json", "matrix.png", "matrix.html"}
    pairs = {path.name for path in (out / "guided,random").iterdir()}
    assert pairs == {f"nearest_{space}.png" for space in ("pixels", "digits-rotation", "digits", "thumbnails")}
    page = (out / "matrix.html").read_text()
    assert "guided,random" in page and "data:image/png;base64" in page and "fdr3" in page
    assert page.count("(trained on)") == 0
    print_report({**report, "trained_on": ["digits-rotation-cnn"]})
    printed = capsys.readouterr().out
    assert "digits-rotation *" in printed and "pixels *" not in printed and "was trained on" in printed


def test_an_interrupted_matrix_goes_on_with_the_row_it_was_in(checkpoint, matrix, tmp_path, monkeypatch):
    report, *_ = matrix
    monkeypatch.setattr(parts, "MIN_IMAGES_IN_PART", 40)
    made, real = [], parts.extract
    settings = {**SETTINGS, "extractors": "pixels:4", "scoring": ScoringOptions(rows="unguided,balanced,random")}

    def failing(model, plan, index, *args):
        made.append((plan.labels, index.start))
        if len(made) == 4:
            raise KeyboardInterrupt
        return real(model, plan, index, *args)

    monkeypatch.setattr(parts, "extract", failing)
    with pytest.raises(KeyboardInterrupt):
        evaluate(checkpoint, PLAN, out=tmp_path, **settings)
    # It is finished with its page, not before.
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr("jitflow.evaluation.evaluate.write_matrix", Mock(side_effect=OSError("full")))
        evaluate(checkpoint, PLAN, out=tmp_path, **settings)
    again = evaluate(checkpoint, PLAN, out=tmp_path, **settings)
    assert (tmp_path / "matrix.html").is_file()
    assert made == [("balanced", 0), ("balanced", 40), ("random", 0), ("random", 40), ("random", 40)]
    cells = {name: report["metrics"][name] for name in again["metrics"] if "/pixels/" in name}
    assert len(cells) == 24 and again["metrics"].items() >= cells.items()
    assert not (tmp_path / "parts").exists() and not (tmp_path / "rows").exists()


def test_parts_that_lack_pixels_or_a_feature_space_are_made_again(checkpoint, tmp_path):
    plan = Plan(20, steps=1, guidance=1.0)
    some = parts.EvaluationParts(str(checkpoint), plan, {"pixels": "pixels:2"}, tmp_path, keep_pixels=False)
    parts.make_missing(some, load(checkpoint, device="cpu"), {"pixels": make_extractor("pixels:2")}, processes=1)
    assert not some.missing()
    assert replace(some, keep_pixels=True).missing() == some.indices()
    assert replace(some, extractors={"pixels": "pixels:2", "digits": "digits"}).missing() == some.indices()


def test_a_dry_run_names_missing_weights_and_wrong_rows(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    words = ["evaluate", str(checkpoint), "--reference", "digits", "--num_images", "40", "--dry_run", "--matrix"]
    assert cli.main([*words, "--extractors", "pixels,mae"]) == 1
    assert "vit_large_patch16_224.mae.safetensors" in capsys.readouterr().err
    assert cli.main([*words, "--extractors", "pixels", "--rows", "averaged"]) == 1
    assert cli.main([*words, "--extractors", "pixels,pixels-fine"]) == 1
    capsys.readouterr()
    assert cli.main([*words, "--extractor", "pixels"]) == 0
    assert "would score 40 images" in capsys.readouterr().err


def test_from_the_command_line(checkpoint, tmp_path, capsys):
    words = ["evaluate", str(checkpoint), "--reference", "digits:val", "--num_images", "40", "--steps", "1"]
    words += ["--device", "cpu", "--extractors", "pixels:2,pixels-fine", "--out", str(tmp_path / "a")]
    assert cli.main(words) == 1
    assert "pixels-fine" in capsys.readouterr().err
    words[words.index("pixels:2,pixels-fine")] = "pixels:2"
    # Without validation data there is no ratio, and the report says so.
    assert cli.main([*words, "--rows", "unguided,weights,ema2", "--infinity"]) == 0
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert list(report["protocol"]["ema"]) == ["unguided,balanced,weights", "unguided,balanced,ema2"]
    assert "unguided,balanced,ema2/pixels/frechet_distance_infinity" in report["intervals"]
    assert any("--validation" in warning for warning in report["warnings"])
    assert cli.main([*words, "--rows", "guided,mean"]) == 1
    assert "mean" in capsys.readouterr().err


def test_statistics_of_more_validation_images_than_samples_are_refused(checkpoint, tmp_path, capsys):
    from PIL import Image

    (tmp_path / "val").mkdir()
    for i in range(25):
        Image.new("L", (16, 16), 9 * i).save(tmp_path / "val" / f"{i:02}.png")
    words = ["stats", str(tmp_path / "val"), "--img_size", "16", "--channels", "1", "--num_workers", "0"]
    assert cli.main([*words, "--extractors", "pixels:2", "--out", str(tmp_path / "val.npz")]) == 0
    scoring = ScoringOptions(validation=str(tmp_path / "val.npz"))
    settings = {"reference": "digits", "extractors": "pixels:2", "device": "cpu", "out": tmp_path / "out"}
    with pytest.raises(ConfigError, match="statistics of 25 images"):
        evaluate(checkpoint, Plan(20, steps=1), scoring=scoring, **settings)
    # Of the same images as above the ratio would divide by 0.
    with pytest.raises(ConfigError, match="same images as --reference"):
        evaluate(checkpoint, Plan(30, steps=1), scoring=scoring, **{**settings, "reference": tmp_path / "val.npz"})
    report = evaluate(checkpoint, Plan(30, steps=1), scoring=scoring, **settings)
    assert report["protocol"]["validation_compared_images"] == 25
    # Above, 25 of the 30 samples.
    metrics = report["metrics"]
    assert metrics["frechet_ratio"] != metrics["frechet_distance"] / metrics["frechet_validation"]


def test_rows_of_a_model_without_guidance_are_unguided():
    rows = evaluation_rows(Plan(20), make_module(cfg_scale=1.0), "guided,unguided,balanced,random")
    assert list(rows) == ["unguided,balanced", "unguided,random"]
    assert list(evaluation_rows(Plan(20, guidance=3.0), make_module(), "")) == ["guided,balanced"]
    with pytest.raises(ConfigError, match="'averaged'"):
        evaluation_rows(Plan(20), make_module(), "averaged")


def test_a_model_without_classes_is_evaluated_and_swept(tmp_path):
    module = make_module(num_classes=0, net_settings={"in_context_len": 0})
    path = write_state(ModelState(dict(module.hparams), module.state_dict(), application="images"), tmp_path / "m.ckpt")
    words = [
        str(path),
        "--reference",
        "digits:val",
        "--extractors",
        "pixels:2",
        "--num_images",
        "21",
        "--device",
        "cpu",
    ]
    words += ["--steps", "1", "--out", str(tmp_path / "out")]
    assert cli.main(["evaluate", *words, "--ema", "0", "--rows", "balanced,random", "--png", "--npz"]) == 0
    assert len(list((tmp_path / "out" / "unguided,random" / "images").glob("*.png"))) == 21
    assert cli.main(["sweep", *words[:-1], str(tmp_path / "sweep"), "--ema", "0"]) == 0


def test_random_labels_are_named_by_the_seed_and_need_no_multiple_of_the_classes():
    plan = Plan(7, seed=3, labels="random")
    plan.check(10)
    assert plan.classes(10) == replace(plan, guidance=2.0).classes(10) != replace(plan, seed=4).classes(10)
    counts = torch.bincount(torch.tensor(Plan(5000, labels="random").classes(10)), minlength=10)
    # Not balanced: a binomial spread of 21 around 500.
    assert 5 < float(counts.double().std()) < 45 and len(counts) == 10


def test_means_over_feature_spaces():
    ratios = {
        name: FrechetSample(value, value * torch.tensor([0.9, 1.1], dtype=torch.float64), 100, 4)
        for name, value in (("a", 2.0), ("b", 8.0))
    }
    found = fdr(ratios)
    assert found.metrics == pytest.approx({"arithmetic": 5, "geometric": 4})
    # All ratios move together here, and so does the mean: its interval is that of one space.
    for name, factor in (("arithmetic", 2.5), ("geometric", 2)):
        assert found.intervals[name].low == pytest.approx(factor * ratios["a"].interval.low)
    with pytest.raises(ConfigError, match="--validation"):
        scores_module.fdr({})
