"""The visit to a GPU: its parts as a dry run on a CPU, and its budget, with parts that fail or take too long."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from release_stub import write_release_stub

ROOT = Path(__file__).parents[3]
# Many traced networks, a training through the Trainer, processes of their own: only in the complete dry run.
LONG = {"memory", "demo", "first-step"}
# Packages that the machine of a visit does not have.
MISSING = ("jsonargparse", "docstring_parser", "typeshed_client")


@pytest.fixture
def visit(monkeypatch):
    """The script of the visit, as a module; what the scripts set in the process is undone."""
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    yield importlib.import_module("gpu_visit")
    torch.compiler.set_stance("default")
    for name in ("denoiser", "model_jit", *(n for n in set(sys.modules) - before if n.startswith(("_", "bench_")))):
        sys.modules.pop(name, None)


def rows_of(path):
    return {row["name"]: row for row in json.loads(path.read_text(encoding="utf-8"))}


def test_every_part_runs_on_a_cpu(visit, tmp_path, capsys, monkeypatch):
    release = write_release_stub(tmp_path / "release")
    monkeypatch.setattr(sys, "path", list(sys.path))
    out = tmp_path / "rows.json"
    for part in visit.PARTS:
        if part.name in LONG:
            continue
        script, *words = part.command
        words += ["--device", "cpu", "--tiny", "--out", str(out), "--compile_cache", str(tmp_path / "cache")]
        words += ["--reference", str(release)] if part.needs_reference else []
        importlib.import_module(script.removesuffix(".py")).main(words)
    found = rows_of(out)
    step = found["training step, JiT-N/4, 8 px, batch 4, ours compiled as one / release"]
    assert step["images_per_sec"] > 0 and step["ratio"] > 0 and step["release"] == "eager"
    assert step["largest_difference"] < 1e-4 and step["formula_over_count"] == pytest.approx(1, abs=0.01)
    sampling = found["guided sampling, JiT-N/4, 8 px, batch 4, Heun 3, ours compiled / release"]
    assert sampling["largest_difference"] < 1e-4 and sampling["relative_difference_as_timed"] < 1e-4
    profile = found["profile of a training step, JiT-N/4, 8 px, batch 4, ours compiled as one"]
    assert profile["kinds"]["matrix products"] > 0 and len(profile["kernels"]) > 25
    assert all(any(name.startswith(f"distance of the {what}") for name in found) for what in ("output", "gradient"))
    # Rows are printed as soon as they are measured.
    assert capsys.readouterr().out.count("training step, ") >= 5


def test_two_ways_of_one_network_have_the_same_losses(visit, tmp_path, monkeypatch):
    train = importlib.import_module("bench_train")
    variants = importlib.import_module("_variants")
    monkeypatch.setitem(train.STEPS, "large", train.Row(variants.TINY, "eager", "blocks", in_turns=False))
    monkeypatch.setitem(train.STEPS, "huge", train.Row(variants.TINY, "eager", "blocks"))
    for row in ("large", "huge"):
        out = tmp_path / f"{row}.json"
        train.main(["--row", row, "--tiny", "--device", "cpu", "--repeats", "2", "--out", str(out)])
        compared = rows_of(out)["training step, JiT-N/4, 8 px, batch 4, ours / ours compiled"]
        assert compared["loss"] == compared["reference_loss"] > 0


def script_of(folder, name, text):
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_part_that_fails_or_takes_too_long_does_not_stop_the_others(visit, tmp_path, monkeypatch, capsys):
    row = {"name": "a row", "ours": 1.5, "reference": 3.0, "ratio": 2.0, "unit": "ms", "images_per_sec": 12.5}
    row |= {"device": "a card", "torch": "2", "commit": "c", "peak_mib": 2048, "mfu": 0.5}
    write = f"import sys, json; open(sys.argv[sys.argv.index('--out') + 1], 'w').write(json.dumps([{row!r}]))"
    child = tmp_path / "child.txt"
    late = f"import time; time.sleep(4); open({str(child)!r}, 'w')"
    slow = f"import subprocess, sys, time; print('begun'); subprocess.Popen([sys.executable, '-c', {late!r}])\n"
    scripts = {
        "good": write,
        "bad": "print('before'); raise ValueError('no such kernel')",
        "slow": f"{slow}time.sleep(60)",
        "instead": "print('in its place')",
        "lacking": "print('row not available: no torchao')",
    }
    paths = {name: script_of(tmp_path, name, text) for name, text in scripts.items()}
    part = visit.Part
    parts = (
        part("bad", (paths["bad"],), 1.0),
        part("compared", (paths["good"],), 1.0, needs_reference=True),
        part("slow", (paths["slow"],), 0.02),
        part("instead", (paths["instead"],), 1.0, instead_of="slow"),
        part("not-needed", (paths["instead"],), 1.0, instead_of="instead"),
        part("lacking", (paths["lacking"],), 1.0),
        part("good", (paths["good"],), 1.0),
    )
    monkeypatch.setattr(visit, "PARTS", parts)
    started = time.monotonic()
    visit.main(["--budget", "60", "--out", str(tmp_path / "out")])
    assert time.monotonic() - started < 30
    found = {o["name"]: o for o in json.loads((tmp_path / "out" / "visit.json").read_text(encoding="utf-8"))}
    statuses = {name: outcome["status"] for name, outcome in found.items()}
    assert statuses == {
        "bad": "failed",
        "compared": "not run",
        "slow": "cut off",
        "instead": "done",
        "not-needed": "not run",
        "lacking": "done",
        "good": "done",
    }
    assert "ValueError: no such kernel" in found["bad"]["notes"][-1]
    assert found["lacking"]["notes"] == ["row not available: no torchao"]
    table = capsys.readouterr().out
    assert "in its place" in table and "2.00      12.5   0.5    2.0  a row" in table and "on a card, torch 2" in table
    assert (tmp_path / "out" / "bad.log").read_text(encoding="utf-8").startswith("before")
    time.sleep(max(0.0, 5 - (time.monotonic() - started)))
    assert not child.exists()


def test_parts_without_time_are_not_started(visit, tmp_path, capsys):
    visit.main(["--budget", "5", "--out", str(tmp_path / "out"), "--only", "parity,train"])
    found = json.loads((tmp_path / "out" / "visit.json").read_text(encoding="utf-8"))
    assert [(o["name"], o["status"]) for o in found] == [("parity", "not run"), ("train", "not run")]


def test_parts_are_chosen_by_name(visit):
    assert [part.name for part in visit.choose("profile,train", None)] == ["train", "profile"]
    assert "train" not in [part.name for part in visit.choose(None, "train")]
    with pytest.raises(SystemExit, match="trian"):
        visit.choose("trian", None)


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_tst_256x128_64x4_2x1_v_bz_coopA_TNT", "matrix products"),
        ("triton_tem_fused_addmm_3", "matrix products"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64>>", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma", "attention"),
        ("triton_poi_fused__scaled_dot_product_flash_attention_clone_4", "generated"),
        ("triton_red_fused_addmm_mul_7", "generated"),
        (
            "void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>",
            "optimiser and averages",
        ),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("_norm_modulate_kernel_2", "our kernels"),
        ("void at::native::vectorized_elementwise_kernel<4, MulFunctor>", "other"),
    ],
)
def test_kernels_are_sorted_by_name(visit, kernel, kind):
    assert importlib.import_module("_profile").kind_of_kernel(kernel, {"_norm_modulate_kernel"}) == kind


def test_a_trace_is_sorted_by_kind_with_its_idle_time(visit):
    events = [
        {"cat": "kernel", "name": "gemm", "ts": 0, "dur": 1000},
        {"cat": "kernel", "name": "triton_poi_fused_0", "ts": 500, "dur": 1000},
        {"cat": "gpu_memset", "name": "Memset (Device)", "ts": 3500, "dur": 500},
        {"cat": "gpu_user_annotation", "name": "Optimizer.step", "ts": 0, "dur": 9000},
        {"cat": "cpu_op", "name": "aten::mm", "ts": 0, "dur": 9000},
        {"name": "process_name"},
    ]
    found = importlib.import_module("_profile").profile_of_trace(events, repeats=2)
    assert {kind: ms for kind, ms in found.kinds.items() if ms} == {
        "matrix products": 0.5,
        "generated": 0.5,
        "copies": 0.25,
        "idle": 1.0,
    }
    assert found.kernels[0] == ("gemm", 0.5, 0.5)
    assert "gemm" in found.show(most=1) and "Memset" not in found.show(most=1)


def test_the_benchmarks_need_no_command_line():
    block = (
        "import sys, importlib.abc\n"
        "class Blocker(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {MISSING!r}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
        "sys.path[:0] = ['benchmarks', '.']\n"
        "import jitflow.apps.images.module, jitflow.run.fit\n"
        "import bench_train, bench_sample, bench_memory, bench_parity, bench_profile, bench_demo, bench_first_step\n"
        "assert not any(name.startswith('jitflow.verbs') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", block], cwd=ROOT, check=True, timeout=120)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_whole_visit_as_a_dry_run(tmp_path):
    release = write_release_stub(tmp_path / "release")
    words = ["--budget", "800", "--tiny", "--device", "cpu", "--out", str(tmp_path), "--reference", str(release)]
    subprocess.run([sys.executable, str(ROOT / "benchmarks" / "gpu_visit.py"), *words], check=True, timeout=850)
    found = {o["name"]: o for o in json.loads((tmp_path / "visit.json").read_text(encoding="utf-8"))}
    assert {o["status"] for name, o in found.items() if name != "train-release-eager"} == {"done"}, found
    names = " ".join(rows_of(tmp_path / "rows.json"))
    assert all(
        part in names for part in ("cold compile cache", "warm compile cache", "digits demo", "memory of a step")
    )
