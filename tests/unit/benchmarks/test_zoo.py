"""The zoo of methods: a dry run that is cut off and goes on, and the statistics of its table."""

import json
import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import zoo

QUICK = ["--methods", "dispersive", "--seeds", "1", "--steps", "2", "--images", "20", "--timed", "1"]
NET = {"net_settings": {"depth": 2, "hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8, "in_context_start": 1}}


def test_a_dry_run_goes_on_where_it_was_cut_off(tmp_path, monkeypatch, capsys):
    methods = {name: zoo.Method({**zoo.METHODS[name].model, **NET}, {"steps": 2}) for name in ("base", "dispersive")}
    monkeypatch.setattr(zoo, "METHODS", methods)
    # The judge of the digits must be trained, which takes seconds; pixels judge here.
    found = zoo.digits()
    images = zoo.Images(found.recipe, ("pixels",), found.train, found.held_out, found.num_classes)
    monkeypatch.setattr(zoo, "digits", lambda: images)
    trained = []
    fit = zoo.fit

    def cut_off(recipe, folder, **further):
        if len(trained) == 1:
            trained.append("cut")
            raise KeyboardInterrupt
        trained.append(folder)
        return fit(recipe, folder, **further)

    monkeypatch.setattr(zoo, "fit", cut_off)
    with pytest.raises(KeyboardInterrupt):
        zoo.main([*QUICK, "--out", str(tmp_path)])
    assert len((tmp_path / "zoo.jsonl").read_text().splitlines()) == 1
    zoo.main([*QUICK, "--out", str(tmp_path)])
    rows = [json.loads(line) for line in (tmp_path / "zoo.jsonl").read_text().splitlines()]
    assert [(row["method"], row["seed"]) for row in rows] == [("base", 0), ("dispersive", 0)]
    assert all(row["steps"] > 0 and row["time"] > 0 and row["state_mib"] > 0 for row in rows)
    # One before the cut, and the one that was missing.
    assert len(trained) == 3
    printed = capsys.readouterr().out
    assert "| dispersive, 1 seeds |" in printed and "| base, 1 seeds |" in printed


def test_a_paired_difference_has_the_interval_of_students_t():
    # Differences 1, 2, 3: mean 2, deviation 1, t(0.975, 2) = 4.303.
    mean, half = zoo.paired_difference([3.0, 5.0, 7.0], [2.0, 3.0, 4.0])
    assert mean == 2 and half == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert zoo.paired_difference([1.0], [3.0]) == (-2.0, math.inf)


def test_the_table_says_where_no_difference_is_seen(tmp_path):
    rows = zoo.Rows(tmp_path / "rows.jsonl")
    cost = {"ms_per_step": 12.0, "base_ms": 10.0, "state_mib": 3.0}
    for seed, (base, same, better) in enumerate([(5.0, 5.2, 3.0), (6.0, 5.9, 4.1), (7.0, 7.0, 4.9)]):
        for method, score in (("base", base), ("muon", same), ("apg", better)):
            rows.add({"data": "digits", "method": method, "seed": seed, "steps": score, "time": score, **cost})
    lines = {line.split(",")[0].strip("| "): line for line in zoo.table(rows, "digits").splitlines()[2:]}
    assert "no difference seen" in lines["muon"] and "no difference seen" not in lines["apg"]
    assert "-2.00 ±" in lines["apg"] and lines["base"].startswith("| base, 3 seeds | 6.00 | 6.00 | 1.20 | 3.0 MiB |")
    assert zoo.best_methods(rows, "digits", ["base", "muon", "apg"]) == ["base", "apg", "muon"]
    assert zoo.Rows(tmp_path / "rows.jsonl").rows == rows.rows
