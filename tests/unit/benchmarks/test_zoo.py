"""The zoo of methods: a dry run that is cut off and goes on, its statistics, and that every row is valid."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from jitflow.errors import ConfigError
from jitflow.evaluation.features import PixelExtractor
from jitflow.run.model import build_model
from jitflow.run.recipe import override, read_recipe

pytest.importorskip("sklearn")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def zoo():
    """The script, with those that it imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("zoo")
        for name in ("zoo", "_zoo_data", "_zoo_rows", "_zoo_table"):
            sys.modules.pop(name)


@pytest.fixture
def quick(zoo, tmp_path, monkeypatch):
    """A zoo of seconds, whose judges train nothing, and its data."""
    monkeypatch.setattr("jitflow.run.fit.write_final_report", lambda folder: None)
    sizes = zoo.Sizes(steps=4, batch_size=8, hidden_size=32, num_samples=20, sampling_steps=2)
    pixels = {zoo.HELD_OUT: lambda: PixelExtractor(4), "pixels": lambda: PixelExtractor(2)}

    def data():
        found = zoo.digits(tmp_path, img_size=8)
        return zoo.ZooData(found.recipe, found.encoder, pixels, found.images, 10)

    return lambda: zoo.Zoo(tmp_path / "zoo.json", tmp_path / "runs", sizes), {"digits": data}


def run_of(row, seed, score, **further):
    scores = {at: {"held out": score} for at in ("equal_steps", "equal_time")}
    costs = {"step_sec": 2.0, "kept_mib": 3.0, "sampling_sec": 1.0, "trained_on": []}
    return {"data": "digits", "row": row, "seed": seed, "scores": scores, **costs, **further}


def test_a_dry_run_goes_on_where_it_was_cut_off(zoo, quick, tmp_path):
    make, sources = quick
    rows, seeds = ["cosine", "no guidance"], range(1)
    first = zoo.run_zoo(make(), sources, rows, seeds)
    base = next(first)
    first.close()
    assert (base["row"], base["seed"]) == ("base", 0)
    stored = json.loads((tmp_path / "zoo.json").read_text())
    assert stored["runs"] == [base] and stored["machine"]["torch"] == torch.__version__
    again = make()
    assert [run["row"] for run in zoo.run_zoo(again, sources, rows, seeds)] == rows
    assert list(zoo.run_zoo(make(), sources, rows, seeds)) == []
    # Guidance is another way of sampling from the base's training.
    assert len(list((tmp_path / "runs" / "digits").iterdir())) == 2
    cosine, unguided = (again.find("digits", row, 0) for row in rows)
    assert base["steps"]["equal_steps"] == base["steps"]["equal_time"] == cosine["steps"]["equal_steps"] == 4
    assert base["scores"] != unguided["scores"] and base["kept_mib"] > 0 and base["step_sec"] > 0
    assert unguided["steps"] == base["steps"] and 1 <= cosine["steps"]["equal_time"] <= 5
    younger = next((tmp_path / "runs" / "digits").glob("*/younger.ckpt"))
    model = zoo.load(younger, device="cpu")
    for row in zoo.ROWS.values():
        if not row.train:
            assert model.sample("0", 0, **{"steps": 2, **zoo.fill(row.sample, {zoo.YOUNGER: str(younger)})})
    table = zoo.report(again.runs, zoo.ROWS)
    assert "| cosine |" in table and "| muon |  | untested |" in table
    other = zoo.Sizes(steps=5)
    with pytest.raises(ConfigError, match="other sizes"):
        zoo.Zoo(tmp_path / "zoo.json", tmp_path, other)


@pytest.mark.parametrize("step_sec, budget_sec, last", [(2.0, 80.0, 40), (0.5, 80.0, 100), (1.0, None, 80)])
def test_equal_time_is_the_bases_by_the_median_step(zoo, tmp_path, monkeypatch, step_sec, budget_sec, last):
    clock = [0.0]
    monkeypatch.setattr("time.process_time", lambda: clock[0])
    module = torch.nn.Linear(1, 1)
    module.ema_params1 = module.ema_params2 = {}
    saved = {}
    trainer = SimpleNamespace(optimizers=[SimpleNamespace(state={})], should_stop=False)
    trainer.save_checkpoint = lambda path: saved.update({path.stem: trainer.global_step})
    snapshots = zoo.Snapshots(tmp_path, 80, budget_sec, 1.25)
    for step in range(101):
        trainer.global_step = step
        snapshots.on_train_batch_start(trainer, module, None, step)
        if trainer.should_stop:
            break
        snapshots.on_before_backward(trainer, module, torch.zeros(()))
        # The first steps are slow, and now and then another one is; neither counts.
        clock[0] += 5.0 if step < 10 or step % 9 == 0 else step_sec
    assert saved == snapshots.steps_at == {"younger": 20, "equal_steps": 80, "equal_time": last}
    assert step == max(80, last) and snapshots.step_sec == step_sec


def test_nothing_begins_that_the_budget_would_cut_off(zoo, quick, monkeypatch):
    make, sources = quick
    assert list(zoo.run_zoo(make(), sources, ["cosine"], range(2), 0.0)) == []
    monkeypatch.setattr(zoo.Zoo, "run", lambda self, data, source, row, seed: {"row": row, "wall_sec": 60.0})
    # The first one ends, and the next one would take as long.
    assert [run["row"] for run in zoo.run_zoo(make(), sources, ["cosine"], range(2), 50.0)] == ["base"]


def test_paired_differences_and_their_t_interval(zoo):
    runs = [run_of("base", seed, score) for seed, score in enumerate((1.0, 2.0, 3.0))]
    runs += [run_of("a", seed, score, step_sec=3.0) for seed, score in enumerate((0.9, 1.8, 2.9))]
    runs += [run_of("b", seed, score) for seed, score in enumerate((0.5, 2.5, 3.6))]
    table = importlib.import_module("_zoo_table")
    paired = table.differences(runs, "digits", "a", "equal_steps")
    assert paired == pytest.approx([-0.1, -0.2, -0.1])
    # Mean -0.1333, standard deviation 0.0577, t = 4.3027 at 2 degrees of freedom.
    assert table.verdict(paired) == ("-0.133 [-0.277, +0.010]", table.NO_DIFFERENCE)
    assert table.verdict([-0.1, -0.11, -0.12])[1] == "better" and table.verdict([0.1, 0.11, 0.12])[1] == "worse"
    assert table.best_rows(runs, "digits", ["base", "a", "b", "c"], range(3), 1) == ["a"]
    assert table.best_rows(runs, "digits", ["a", "b"], range(4), 2) == []
    line = next(line for line in zoo.report(runs, ["base", "a", "b", "c"]).splitlines() if line.startswith("| a |"))
    assert "x 1.50 | x 1.00 | x 1.00 | 3 |" in line
    runs[3]["trained_on"] = ["held out"]
    assert "| a (trained on this judge) |" in zoo.report(runs, ["a"])


def test_every_row_is_a_training_of_the_digits(zoo, tmp_path):
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng():
        weights = timm.create_model("test_vit", pretrained=False).state_dict()
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(weights, path)
    for name, row in zoo.ROWS.items():
        changes = zoo.fill(row.train, {"encoder": f"timm:test_vit@32:{path}"})
        with torch.device("meta"):
            build_model(override(read_recipe("images/digits"), changes), {}, {})
        assert row.train or row.sample or name == "base"


def test_crops_of_photos_differ_and_stay_the_same(zoo):
    pytest.importorskip("skimage")
    data = importlib.import_module("_zoo_data")
    one, again = (data.crop_photos(("coffee",), 5)["coffee"] for _ in range(2))
    assert one.shape == (5, 32, 32, 3) and one.std() > 10
    assert (one == again).all() and len({crop.tobytes() for crop in one}) == 5
