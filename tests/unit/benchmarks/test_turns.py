"""Turns of the visit to a GPU: parts that prepare side by side, fail, take too long, or lack memory."""

import importlib
import json
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
# A benchmark of the visit, without torch: it is ready at once, and writes when its turn began and ended.
TAKES_TURN = """
import os, pathlib, sys, time
turn = os.environ["JITFLOW_BENCHMARK_TURN"]
time.sleep({prepare})
pathlib.Path(turn + ".ready").touch()
while not pathlib.Path(turn + ".go").exists():
    time.sleep(0.01)
began = time.time()
time.sleep({turn})
print("took", began, time.time())
"""


@pytest.fixture
def load(monkeypatch):
    """Import a script of the benchmarks, as a new module, and those that it imports."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for path in (ROOT / "benchmarks").glob("*.py"):
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
    yield importlib.import_module
    for path in (ROOT / "benchmarks").glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def visit(load, tmp_path, monkeypatch):
    """Run a visit of some scripts and return the outcome of each by name."""
    script = load("gpu_visit")
    monkeypatch.setattr(load("_visit"), "LEAST_SECONDS", 0.5)

    def run(parts, *words):
        made = []
        for name, (text, *more) in parts.items():
            path = tmp_path / f"{name}.py"
            path.write_text(text, encoding="utf-8")
            made.append(script.Part(name, (str(path),), **dict(more)))
        monkeypatch.setattr(script, "PARTS", tuple(made))
        script.main(["--out", str(tmp_path / "out"), *words])
        return {o["name"]: o for o in json.loads((tmp_path / "out" / "visit.json").read_text(encoding="utf-8"))}

    return run


def turn_of(tmp_path, name):
    words = (tmp_path / "out" / f"{name}.log").read_text(encoding="utf-8").split()
    return float(words[1]), float(words[2])


def test_parts_prepare_side_by_side_and_have_turns_in_order_of_worth(visit, tmp_path, capsys):
    names = ("first", "second", "third")
    prepare = dict(zip(names, (1.0, 0.1, 0.5), strict=True))
    parts = {name: (TAKES_TURN.format(prepare=prepare[name], turn=0.2),) for name in names}
    found = visit(parts, "--budget", "60", "--together", "3")
    assert [found[name]["status"] for name in names] == ["done"] * 3
    turns = [turn_of(tmp_path, name) for name in names]
    assert all(before[1] <= after[0] for before, after in pairwise(turns))
    shown = capsys.readouterr().out
    # All were ready before the first one had its turn.
    assert shown.index("PART first: ready") < shown.index("PART first: at most")
    assert max(shown.index(f"PART {name}: ready") for name in names) < shown.index("PART first: at most")
    assert "[second] took" in shown


def test_a_part_that_is_not_ready_in_time_has_its_turn_later(visit, tmp_path):
    parts = {
        "slow": (TAKES_TURN.format(prepare=2, turn=0),),
        "quick": (TAKES_TURN.format(prepare=0, turn=0),),
        "never": ("import time; time.sleep(60)",),
    }
    found = visit(parts, "--budget", "5", "--prepare", "0.5")
    assert {name: o["status"] for name, o in found.items()} == {"slow": "done", "quick": "done", "never": "cut off"}
    assert turn_of(tmp_path, "quick")[0] < turn_of(tmp_path, "slow")[0]
    assert found["never"]["turn_seconds"] == 0 and found["never"]["seconds"] == pytest.approx(5, abs=2)


def test_what_still_prepares_pauses_during_a_turn(visit, tmp_path):
    """The slow part counts how long it prepares; the quick one's turn lies in between, and is left out."""
    counts = """
import pathlib, sys, time
ticks = pathlib.Path(sys.path[0]) / "ticks"
for _ in range(40):
    with ticks.open("a") as file:
        print(time.time(), file=file)
    time.sleep(0.05)
"""
    parts = {
        "quick": (TAKES_TURN.format(prepare=0, turn=1),),
        "slow": (counts + TAKES_TURN.format(prepare=0, turn=0),),
    }
    found = visit(parts, "--budget", "20", "--prepare", "0.5")
    assert [found[name]["status"] for name in parts] == ["done", "done"]
    began, ended = turn_of(tmp_path, "quick")
    ticks = [float(line) for line in (tmp_path / "ticks").read_text().split()]
    assert len(ticks) == 40
    assert not [tick for tick in ticks if began + 0.1 < tick < ended - 0.1]
    assert min(ticks) < began and ended < max(ticks)


def test_a_part_that_fails_or_takes_too_long_does_not_stop_the_others(visit, tmp_path, capsys):
    row = {"name": "a row", "ours": 1.5, "reference": 3.0, "ratio": 2.0, "unit": "ms", "images_per_sec": 12.5}
    row |= {"device": "a card", "torch": "2", "commit": "c", "peak_mib": 2048, "mfu": 0.5}
    write = f"import sys, json; open(sys.argv[sys.argv.index('--out') + 1], 'w').write(json.dumps([{row!r}]))"
    child = tmp_path / "child.txt"
    ticks = f"import time\nwhile True: print('.', file=open({str(child)!r}, 'a')); time.sleep(0.05)"
    begin = f"import subprocess, sys; print('begun'); subprocess.Popen([sys.executable, '-c', {ticks!r}])\n"
    takes_turn = TAKES_TURN.format(prepare=0, turn=0)
    started = time.monotonic()
    parts = {
        "bad": ("print('before'); raise ValueError('no such kernel')",),
        "compared": (write, ("needs_reference", True)),
        "slow": (begin + TAKES_TURN.format(prepare=0, turn=60),),
        "instead": (takes_turn, ("instead_of", "slow")),
        "not-needed": (takes_turn, ("instead_of", "instead")),
        "for-want-of": (takes_turn, ("unless", "compared")),
        "measured": (takes_turn, ("unless", "slow")),
        "lacking": ("print('row not available: no torchao')",),
        "good": (write, ("alone", True)),
    }
    found = visit(parts, "--budget", "60", "--turn", "1")
    assert time.monotonic() - started < 30
    assert {name: outcome["status"] for name, outcome in found.items()} == {
        "bad": "failed",
        "compared": "not run",
        "slow": "cut off",
        "instead": "done",
        "not-needed": "not run",
        "for-want-of": "done",
        "measured": "not run",
        "lacking": "done",
        "good": "done",
    }
    assert list(found) == list(parts)
    assert "ValueError: no such kernel" in found["bad"]["notes"][-1]
    assert found["lacking"]["notes"] == ["row not available: no torchao"]
    table = capsys.readouterr().out
    assert "[instead] took" in table and "2.00      12.5   0.5    2.0  a row" in table and "a card, torch 2" in table
    assert (tmp_path / "out" / "bad.log").read_text(encoding="utf-8").startswith("before")
    # What the part had started has ended with it.
    size = child.stat().st_size
    time.sleep(0.3)
    assert size > 0 and child.stat().st_size == size


def test_parts_without_time_are_not_started(load, tmp_path):
    load("gpu_visit").main(["--budget", "5", "--out", str(tmp_path), "--only", "parity,train"])
    found = json.loads((tmp_path / "visit.json").read_text(encoding="utf-8"))
    assert [(o["name"], o["status"]) for o in found] == [("train", "not run"), ("parity", "not run")]


def test_parts_are_chosen_by_name(load):
    visit = load("gpu_visit")
    assert [part.name for part in visit.choose("profile,train", None)] == ["train", "profile"]
    assert "train" not in [part.name for part in visit.choose(None, "train")]
    with pytest.raises(SystemExit, match="trian"):
        visit.choose("trian", None)


def test_a_benchmark_tries_again_if_others_have_the_memory(load, monkeypatch, tmp_path):
    turns = load("_turns")
    monkeypatch.setattr(turns.time, "sleep", lambda seconds: None)
    # Thirty collections of garbage take ten seconds.
    monkeypatch.setattr(turns.gc, "collect", lambda: None)
    errors = [torch.OutOfMemoryError("tried to allocate"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")]

    def prepare():
        if errors:
            raise errors.pop()
        return "prepared"

    # Alone, nobody else will give memory back.
    with pytest.raises(RuntimeError, match="ALLOC_FAILED"):
        turns.warm_up(prepare)
    monkeypatch.setenv(turns.VARIABLE, str(tmp_path / "turn"))
    errors.append(RuntimeError("Triton Error [CUDA]: out of memory"))
    assert turns.warm_up(prepare) == "prepared"
    errors.append(RuntimeError("another error"))
    with pytest.raises(RuntimeError, match="another"):
        turns.warm_up(prepare)
    (tmp_path / "turn.go").touch()
    assert turns.wait_for_turn() and (tmp_path / "turn.ready").exists()
    assert not turns.wait_for_turn()
    # Others may still be preparing.
    errors.append(torch.OutOfMemoryError("in its turn"))
    assert turns.warm_up(prepare) == "prepared"
    errors += [torch.OutOfMemoryError("too large")] * 20
    with pytest.raises(torch.OutOfMemoryError, match="too large"):
        turns.warm_up(prepare)


def test_all_warm_up_comes_before_the_turn(load, monkeypatch, tmp_path):
    turns, train, variants = load("_turns"), load("bench_train"), load("_variants")
    done = []
    monkeypatch.setenv(turns.VARIABLE, str(tmp_path / "turn"))
    (tmp_path / "turn.go").touch()
    build = train.build_ours
    monkeypatch.setattr(train, "build_ours", lambda *args: done.append((args[1], turns.together())) or build(*args))
    monkeypatch.setitem(train.STEPS, "large", train.Row(variants.TINY, "eager", "plain", in_turns=False))
    words = ["--device", "cpu", "--tiny", "--repeats", "1", "--out", str(tmp_path / "rows.json")]
    try:
        train.main(["--row", "large", *words])
    finally:
        torch.compiler.set_stance("default")
    assert done == [("plain", True), ("eager", True)] and not turns.together()


def test_rows_of_a_copy_without_its_history_name_a_commit(load, monkeypatch):
    commit_of = load("_timing").commit_of
    monkeypatch.delenv("JITFLOW_COMMIT", raising=False)
    assert commit_of({"commit": None}) == "unknown"
    assert commit_of({"commit": "def"}) == "def"
    monkeypatch.setenv("JITFLOW_COMMIT", "abc")
    assert commit_of({"commit": None}) == "abc" and commit_of({"commit": "def"}) == "abc"


def test_rows_name_a_command_without_this_machines_folders(load):
    words = [
        "/home/me/jitflow/benchmarks/bench_train.py",
        "--row",
        "base",
        "--reference",
        "/home/me/JiT",
        "--out",
        "/x",
    ]
    shown = load("_timing").command_of([*words, "--compile_cache", "/tmp/y", "--repeats", "3"])
    assert shown == "python benchmarks/bench_train.py --row base --reference <JiT> --repeats 3"
