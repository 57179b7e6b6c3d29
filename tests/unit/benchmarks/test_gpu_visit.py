"""The visit to a GPU: its parts as a dry run on a CPU. Their turns are tested in test_turns.py."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked_python import forked_python
from release_stub import write_release_stub

ROOT = Path(__file__).parents[3]
# Many traced networks, a training through the Trainer, processes of their own: only in the complete dry run.
LONG = {"memory", "demo", "first-step"}
# Parts that others stand for.
NOT_NEEDED = {"train", "train-release-eager", "sample"}
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
        if part.name in LONG or part.unless is not None:
            continue
        script, *words = part.command
        words += ["--device", "cpu", "--tiny", "--out", str(out), "--compile_cache", str(tmp_path / "cache")]
        words += ["--reference", str(release)] if part.needs_reference else []
        importlib.import_module(script.removesuffix(".py")).main(words)
    found = rows_of(out)
    step = found["training step, JiT-N/4, 8 px, batch 4, ours compiled with its loss / release"]
    assert step["images_per_sec"] > 0 and step["ratio"] > 0 and step["release"] == "eager"
    assert step["largest_difference"] < 1e-4 and step["formula_over_count"] == pytest.approx(1, abs=0.01)
    sampling = found["guided sampling, JiT-N/4, 8 px, batch 4, Heun 3, ours / release"]
    assert sampling["largest_difference"] < 1e-4 and sampling["relative_difference_as_timed"] < 1e-4
    profile = found["profile of a training step, JiT-N/4, 8 px, batch 4, ours compiled with its loss"]
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
        # The process that is forked has imported some.
        f"for name in [name for name in sys.modules if name.partition('.')[0] in {MISSING!r}]:\n"
        "    del sys.modules[name]\n"
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
    subprocess.run([forked_python(), "-c", block], cwd=ROOT, check=True, timeout=120)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_whole_visit_as_a_dry_run(tmp_path):
    release = write_release_stub(tmp_path / "release")
    words = [
        "--budget",
        "800",
        "--tiny",
        "--device",
        "cpu",
        "--together",
        "2",
        "--turn",
        "300",
        "--out",
        str(tmp_path),
        "--reference",
        str(release),
    ]
    subprocess.run([sys.executable, str(ROOT / "benchmarks" / "gpu_visit.py"), *words], check=True, timeout=850)
    found = {o["name"]: o for o in json.loads((tmp_path / "visit.json").read_text(encoding="utf-8"))}
    assert {o["status"] for name, o in found.items() if name not in NOT_NEEDED} == {"done"}, found
    names = " ".join(rows_of(tmp_path / "rows.json"))
    assert all(
        part in names for part in ("cold compile cache", "warm compile cache", "digits demo", "memory of a step")
    )
