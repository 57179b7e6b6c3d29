"""Scores that depend on the model and on nothing else: batch size, interruptions, number of processes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jitflow import cli
from jitflow.apps.images.module import JiTLightningModule
from jitflow.checkpoint.formats import write_state
from jitflow.checkpoint.state import ModelState
from jitflow.errors import ConfigError, DataError
from jitflow.evaluation import parts
from jitflow.evaluation.evaluate import evaluate
from jitflow.evaluation.extractors import make_extractor
from jitflow.evaluation.plan import Plan
from jitflow.evaluation.reference import ImageFiles, load_reference
from jitflow.evaluation.scorer import FrechetScorer
from jitflow.evaluation.scores import score
from jitflow.evaluation.sweep import Grid, parse_intervals, parse_numbers, sweep
from jitflow.model import Model, load
from jitflow.training.samples import Samples

FEW = ("--num_images", "20")
PIXELS = {"reference": "digits:val", "extractors": "pixels:4", "device": "cpu"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A model whose images differ: fresh weights, shaken, as no training of seconds would leave them."""
    torch.manual_seed(0)
    module = JiTLightningModule("JiT-N/4", 16, 10, in_channels=1, num_sampling_steps=4, sampling_method="euler")
    for parameter in module.parameters():
        parameter.data += 0.04 * torch.randn_like(parameter)
    weights = module.state_dict()
    ema = {name: value * 0.9 for name, value in weights.items()}
    path = tmp_path_factory.mktemp("model") / "model.ckpt"
    return write_state(ModelState(dict(module.hparams), weights, ema1=ema, ema2=weights), path)


def close(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert value == pytest.approx(b[name], rel=1e-3, abs=1e-6), name


def test_the_score_does_not_depend_on_the_batch_size(checkpoint, tmp_path):
    a = evaluate(checkpoint, Plan(120, batch_size=7), out=tmp_path / "a", **PIXELS)
    b = evaluate(checkpoint, Plan(120, batch_size=64), out=tmp_path / "b", **PIXELS)
    close(a["metrics"], b["metrics"])
    other = evaluate(checkpoint, Plan(120, seed=1000), out=tmp_path / "c", **PIXELS)
    score, same, moved = (r["metrics"]["frechet_distance"] for r in (a, b, other))
    # Other seeds move the score; another batch size moves it far less.
    assert abs(moved - score) > 10 * abs(same - score)


def test_an_interrupted_evaluation_goes_on_and_ends_the_same(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "MIN_IMAGES_IN_PART", 40)
    whole = evaluate(checkpoint, Plan(120), out=tmp_path / "whole", **PIXELS)
    made = []
    real = parts.extract

    def failing(model, plan, index, *args):
        made.append(index.start)
        if len(made) == 2:
            raise KeyboardInterrupt
        return real(model, plan, index, *args)

    monkeypatch.setattr(parts, "extract", failing)
    with pytest.raises(KeyboardInterrupt):
        evaluate(checkpoint, Plan(120), out=tmp_path / "parts", **PIXELS)
    report = evaluate(checkpoint, Plan(120), out=tmp_path / "parts", **PIXELS)
    assert made == [0, 40, 40, 80]
    assert report["metrics"] == whole["metrics"]
    assert not (tmp_path / "parts" / "parts").exists()


def test_a_damaged_part_is_made_again(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "MIN_IMAGES_IN_PART", 40)
    whole = evaluate(checkpoint, Plan(80), out=tmp_path / "whole", **PIXELS)
    (tmp_path / "odd" / "parts").mkdir(parents=True)
    (tmp_path / "odd" / "parts" / "00000000.safetensors").write_bytes(b"half a file")
    assert evaluate(checkpoint, Plan(80), out=tmp_path / "odd", **PIXELS)["metrics"] == whole["metrics"]


def test_two_processes_score_like_one(checkpoint, tmp_path, monkeypatch, forked_workers):
    monkeypatch.setattr(parts, "MIN_IMAGES_IN_PART", 40)
    one = evaluate(checkpoint, Plan(80), out=tmp_path / "one", **PIXELS)
    two = evaluate(checkpoint, Plan(80), out=tmp_path / "two", processes=2, **PIXELS)
    close(one["metrics"], two["metrics"])


def test_another_evaluation_in_the_folder_stays_and_the_difference_is_named(checkpoint, tmp_path, caplog):
    caplog.set_level("INFO")
    first = evaluate(checkpoint, Plan(40), out=tmp_path / "a", **PIXELS)
    evaluate(checkpoint, Plan(40, guidance=2.0), out=tmp_path / "a", **PIXELS)
    assert any("guidance 1.0 there, 2.0 now" in line for line in caplog.messages)
    assert (tmp_path / "a-2" / "report.json").is_file()
    assert evaluate(checkpoint, Plan(40), out=tmp_path / "a", **PIXELS) == first


def test_a_finished_evaluation_is_reported_and_not_done_again(checkpoint, tmp_path, monkeypatch):
    first = evaluate(checkpoint, Plan(40), out=tmp_path, **PIXELS)
    monkeypatch.setattr(parts, "extract", lambda *a: pytest.fail("done again"))
    assert evaluate(checkpoint, Plan(40, batch_size=7), out=tmp_path, **PIXELS) == first


def test_a_real_interruption_loses_little(checkpoint, tmp_path):
    assert parts.part_size(Plan(50_000)) == 1000
    assert parts.part_size(Plan(2000)) == 50
    assert parts.part_size(Plan(20)) == 50


def test_an_average_that_is_not_there_is_refused(tmp_path):
    module = JiTLightningModule("JiT-N/4", 16, 10, in_channels=1, num_sampling_steps=2)
    path = write_state(ModelState(dict(module.hparams), module.state_dict()), tmp_path / "bare.ckpt")
    with pytest.raises(ConfigError, match="no EMA 1"):
        evaluate(path, Plan(20), out=tmp_path / "ev", **PIXELS)
    assert load(path, device="cpu").sample([1], steps=1).settings["ema"] == 0


def test_other_real_images_are_another_protocol(checkpoint, tmp_path):
    folder = tmp_path / "real"
    folder.mkdir()
    for i in range(20):
        Image.new("L", (16, 16), 5 * i).save(folder / f"{i:02}.png")
    options = {"reference": folder, "extractors": "pixels:2", "device": "cpu"}
    a = evaluate(checkpoint, Plan(20), out=tmp_path / "a", **options)
    Image.new("L", (16, 16), 255).save(folder / "03.png")
    b = evaluate(checkpoint, Plan(20), out=tmp_path / "b", **options)
    assert a["protocol"]["reference"] != b["protocol"]["reference"]


def test_images_are_written_only_when_asked(checkpoint, tmp_path):
    evaluate(checkpoint, Plan(20), out=tmp_path / "none", **PIXELS)
    pairs = ["nearest_pixels.png", "nearest_thumbnails.png"]
    assert sorted(p.name for p in (tmp_path / "none").iterdir()) == [*pairs, "protocol.json", "report.json"]
    evaluate(checkpoint, Plan(20), out=tmp_path / "all", keep_png=True, keep_npz=True, **PIXELS)
    with np.load(tmp_path / "all" / "samples.npz") as arrays:
        assert arrays["arr_0"].shape == (20, 16, 16, 3) and arrays["arr_0"].dtype == np.uint8
        assert arrays["arr_1"].tolist() == [i % 10 for i in range(20)]
        with Image.open(tmp_path / "all" / "images" / "000013_class3_seed13.png") as image:
            assert np.array_equal(np.asarray(image), arrays["arr_0"][13, :, :, 0])
        # The name says it: class 3, seed 13, whatever the evaluation around it.
        alone = load(checkpoint, device="cpu").sample([3], [13]).pixels[0, 0].numpy().astype(int)
        assert np.abs(alone - arrays["arr_0"][13, :, :, 0]).max() <= 1
        assert np.abs(alone - arrays["arr_0"][3, :, :, 0]).max() > 1
    assert len(list((tmp_path / "all" / "images").iterdir())) == 20


def test_the_report_carries_its_protocol(checkpoint, tmp_path):
    plan = Plan(20, guidance=2.0, interval=(0.1, 0.9), solver="heun", steps=3, ema=2)
    card = evaluate(checkpoint, plan, out=tmp_path, **PIXELS)["protocol"]
    assert (card["guidance"], card["interval"], card["solver"], card["steps"]) == (2.0, [0.1, 0.9], "heun", 3)
    assert card["network_evaluations"] == 5 and card["ema"] == 2 and card["num_images"] == 20
    assert card["reference"]["path"] == "digits:val" and card["reference"]["num_images"] == 359
    assert len(card["reference"]["pixels_sha256"]) == 64
    assert len(card["checkpoint_sha256"]) == 64 and card["extractor"] == "pixels-1x4x4"


def test_nan_samples_are_counted_and_refused(checkpoint, tmp_path, monkeypatch):
    model = load(checkpoint, device="cpu")
    generate = model.module.generate

    def spoiled(labels, use_ema=True):
        x = generate(labels, use_ema)
        x[3] = float("nan")
        return x

    monkeypatch.setattr(model.module, "generate", spoiled)
    with pytest.raises(DataError, match="1 of 10 samples hold NaN"):
        model.sample(range(10))


def test_a_collapsed_model_is_refused(tmp_path):
    module = JiTLightningModule("JiT-N/4", 16, 10, in_channels=1, num_sampling_steps=2)
    features = torch.ones(20, 16)
    reference = load_reference("digits:val", make_extractor("pixels:4"), img_size=(16, 16), channels=1)
    with pytest.raises(DataError, match="collapsed"):
        score(features, None, reference, make_extractor("pixels:4"))
    assert Model(module).snapshots is None


def test_stats_of_a_folder_serve_as_reference(checkpoint, tmp_path, capsys):
    generator = np.random.default_rng(0)
    for i in range(30):
        folder = tmp_path / "real" / f"class{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 24), dtype=np.uint8)).save(folder / f"{i}.png")
    target = tmp_path / "stats.npz"
    words = ["stats", str(tmp_path / "real"), "--img_size", "16", "--channels", "1", "--extractor", "pixels:4"]
    assert cli.main([*words, "--out", str(target), "--keep_features", "20", "--num_workers", "0"]) == 0
    with np.load(target) as arrays:
        assert (
            arrays["mu"].shape == (16,) and arrays["sigma"].shape == (16, 16) and arrays["features"].shape == (20, 16)
        )
        assert int(arrays["num_images"]) == 30 and str(arrays["extractor"]) == "pixels-1x4x4"
        mu, sigma = arrays["mu"], arrays["sigma"]
    direct = load_reference(tmp_path / "real", make_extractor("pixels:4"), img_size=(16, 16), channels=1)
    np.testing.assert_allclose(mu, direct.statistics.mu.numpy(), rtol=1e-6)
    np.testing.assert_allclose(sigma, direct.statistics.sigma.numpy(), rtol=1e-5, atol=1e-12)
    report = evaluate(checkpoint, Plan(40), reference=target, extractors="pixels:4", device="cpu", out=tmp_path / "ev")
    assert {"frechet_distance", "kid", "precision", "recall"} <= report["metrics"].keys()
    capsys.readouterr()
    words = [
        "evaluate",
        str(checkpoint),
        "--reference",
        str(target),
        "--num_images",
        "20",
        "--out",
        str(tmp_path / "x"),
    ]
    assert cli.main([*words, "--extractor", "pixels:3"]) == 1
    assert "16 dimensions" in capsys.readouterr().err


def test_numbers_and_intervals_of_a_sweep_are_read():
    assert parse_numbers("1.0:4.0:0.5", what="--guidance") == (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
    assert parse_numbers("1,2.5", what="--guidance") == (1.0, 2.5)
    assert parse_intervals("0:1,0.1:1") == ((0.0, 1.0), (0.1, 1.0))
    for bad in ("1:2", "2:1:0.5", "a", "1:2:0"):
        with pytest.raises(ConfigError, match="--guidance"):
            parse_numbers(bad, what="--guidance")


class CountedScorer(FrechetScorer):
    """Counts the points, and is interrupted at the sixth."""

    calls = 0

    def __call__(self, plan, on_progress=None):
        type(self).calls += 1
        if self.calls == 6:
            raise KeyboardInterrupt
        return super().__call__(plan, on_progress)


def test_a_sweep_scores_every_point_draws_them_and_goes_on(checkpoint, tmp_path):
    model = load(checkpoint, device="cpu")
    grid = Grid((1.0, 2.0, 3.0), (1, 2), solvers=("euler", "multistep"), steps=(3,))

    def run(base):
        scorer = CountedScorer(model, base, reference="digits:val", extractor="pixels:4")
        return sweep(model, grid, base, scorer, tmp_path)

    with pytest.raises(KeyboardInterrupt):
        run(Plan(40))
    rows = run(Plan(40))
    assert CountedScorer.calls == 13  # twelve points, one of them begun twice
    distances = [row["frechet_distance"] for row in rows]
    assert distances == sorted(distances) and len(set(distances)) > 6
    single = evaluate(
        checkpoint,
        Plan(40, guidance=rows[0]["guidance"], ema=rows[0]["ema"], solver=rows[0]["solver"], steps=3),
        out=tmp_path / "single",
        **PIXELS,
    )
    assert single["metrics"]["frechet_distance"] == pytest.approx(distances[0], rel=1e-3)
    with Image.open(tmp_path / "sweep.png") as image:
        assert min(image.size) > 200
    assert len((tmp_path / "sweep.csv").read_text().splitlines()) == 13
    more = run(Plan(20))
    assert len(more) == 12 and (tmp_path.parent / f"{tmp_path.name}-2" / "sweep.csv").is_file()
    assert len((tmp_path / "sweep.csv").read_text().splitlines()) == 13


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "CKPT", "--num_images", "55"], "multiple of the model's 10 classes"),
        (["evaluate", "CKPT", "--num_images", "50"], "jitflow stats FOLDER"),
        (["evaluate", "CKPT", "--num_images", "50", "--reference", "digits", "--extractor", "pixel"], "pixels"),
        (["evaluate", "CKPT", "--num_images", "50", "--reference", "no.npz", "--extractor", "pixels"], "no.npz"),
        (["evaluate", "CKPT", "--processes", "0"], "--processes"),
        (["sweep", "CKPT", "--guidance", "4:1:1"], "first:last:step"),
        (["sweep", "CKPT", "--solver", "heun,oiler"], "did you mean euler"),
        (["sweep", "CKPT", "--steps", "2.5"], "whole numbers"),
        (["sweep", "CKPT", "--interval", "1:0"], "low <= high"),
        (
            ["sweep", "CKPT", "--ema", "3", "--reference", "digits", "--extractor", "pixels", "--num_images", "20"],
            "0, 1, 2",
        ),
        (["stats", "no/such/folder"], "not a folder"),
    ],
)
def test_each_mistake_is_one_line(checkpoint, tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    words = [str(checkpoint) if word == "CKPT" else word for word in words]
    assert cli.main(words) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and message in lines[0], lines


def test_too_few_images_for_the_dimension_are_warned_about(checkpoint, tmp_path):
    report = evaluate(checkpoint, Plan(20), reference="digits:val", extractors="pixels:8", device="cpu", out=tmp_path)
    assert "at least 65" in report["warnings"][0]
    assert json.loads((tmp_path / "report.json").read_text())["warnings"] == report["warnings"]


def test_a_folder_of_samples_is_judged_without_the_picture_of_all(tmp_path):
    pixels = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    samples = Samples(pixels, [0] * 5, list(range(5)), ["one"] * 5, ["one"] * 5)
    folder = samples.save(tmp_path / "drawn")
    assert (folder / samples.grid_name).is_file()
    assert [path.name for path in ImageFiles(tmp_path, 16).files] == samples.file_names()
    # Without a record beside it, it is a picture like another.
    (folder / samples.record_name).unlink()
    assert len(ImageFiles(tmp_path, 16)) == 6
