"""The application of docs/add_an_application.md goes through every verb; the others live without a deleted one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked_python import forked_python

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "add_an_application.md"
BLOCK = re.compile(r"^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S)


def blocks(kind: str) -> list[str]:
    return [match["text"] for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8")) if match["kind"] == kind]


def run(code: str, *words, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own that finds the packages in ``path`` before those of the checkout."""
    found_in = os.pathsep.join(str(place) for place in (path, ROOT) if place is not None)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": found_in}
    command = [forked_python(), "-c", code, *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280)


# Several commands in one process, since each start takes seconds.
_VERBS = """
import shlex
import sys

from jitflow.cli import main

for line in sys.argv[1:]:
    status = main(shlex.split(line)[1:])
    print(f"{status}: {line}")
    if status:
        sys.exit(status)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder into which pip installed the page's package."""
    project, folder = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("site")
    for kind in ("python", "yaml"):
        (text,) = blocks(kind)
        path = project / text.partition("\n")[0].removeprefix("# ")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (settings,) = blocks("toml")
    (project / "pyproject.toml").write_text(settings)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    words = ["--no-deps", "--no-build-isolation", "--target", folder, project]
    subprocess.run([*pip, *map(str, words)], check=True)
    return folder


def test_a_toy_application_goes_through_the_ordinary_verbs(installed, tmp_path):
    (commands,) = blocks("bash")
    done = run(_VERBS, *commands.strip().splitlines(), cwd=tmp_path, path=installed)
    assert done.returncode == 0, done.stdout + done.stderr
    checkpoint = torch.load(tmp_path / "runs" / "toy" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["jitflow"]["application"] == "toy"
    assert checkpoint["global_step"] == 5 * 4
    assert len(list((tmp_path / "drawn").glob("*_down_seed*.png"))) == 4
    assert (tmp_path / "judged" / "report.json").is_file()
    assert (tmp_path / "exported" / "model.safetensors").is_file()
    assert "toy" in done.stdout
    # Without the package the same file and recipe are one error each, which names what is missing.
    for line in ("jitflow sample runs/toy/checkpoints/last.ckpt", "jitflow train --config toy/tiny"):
        done = run(_VERBS, line, cwd=tmp_path)
        assert done.returncode == 1 and done.stderr.count("error:") == 1 and "toy" in done.stderr


def test_a_package_in_the_working_folder_is_not_imported(installed, tmp_path):
    shutil.copytree(installed, tmp_path / "here")
    with (tmp_path / "here" / "toy" / "__init__.py").open("a") as file:
        file.write("\nraise SystemExit('imported')\n")
    done = run(_VERBS, "jitflow train --config toy/tiny", cwd=tmp_path / "here")
    assert done.returncode == 1 and "imported" not in done.stderr


@pytest.mark.parametrize(
    "deleted", ["text", *(pytest.param(name, marks=pytest.mark.slow) for name in ("microdoppler", "images"))]
)
def test_the_others_live_without_an_application(tmp_path, deleted):
    package = tmp_path / "site"
    shutil.copytree(ROOT / "jitflow", package / "jitflow", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(package / "jitflow" / "apps" / deleted)
    # Without its line, which belongs to it.
    table = package / "jitflow" / "applications.py"
    table.write_text(re.sub(rf'^    "{deleted}": "jitflow.*\n', "", table.read_text(), flags=re.M))
    done = run(_LIVE, deleted, cwd=tmp_path, path=package)
    assert done.returncode == 0, done.stderr
    assert "lives" in done.stdout


_LIVE = """
import sys
from pathlib import Path

import torch

import jitflow
from jitflow.applications import get_application, list_applications
from jitflow.cli import main

deleted = sys.argv[1]
assert "site" in jitflow.__file__, jitflow.__file__
assert deleted not in list_applications()


def command(*words):
    assert main([str(word) for word in words]) == 0, words


if deleted != "images":
    tiny = ["--trainer.max_epochs", 1, "--trainer.limit_train_batches", 2, "--trainer.accelerator", "cpu"]
    command("train", "--config", "images/digits", "--run_dir", "images", *tiny)
    command("sample", "images/checkpoints/last.ckpt", "--labels", "1", "--steps", 2, "--out", "drawn")
    judge = ["--reference", "digits", "--extractor", "pixels:4", "--num_images", 20, "--steps", 2]
    command("evaluate", "images/checkpoints/last.ckpt", "--out", "judged", "--ema", 0, *judge)
if deleted != "text":
    Path("text.txt").write_text("a text to be learned, line by line\\n" * 200)
    net = '{"depth": 1, "hidden_size": 32, "num_heads": 2, "bottleneck_dim": 16}'
    words = ["--model", "JiT-N/4", "--img_size", 16, "--model.net_settings", net, "--epochs", 1]
    command("text", "train", "--data_path", "text.txt", "--output_dir", "text", "--trainer.accelerator", "cpu", *words)
    command("sample", "text/best_model.pth", "--count", 2, "--steps", 2, "--out", "written")
    command("evaluate", "text/best_model.pth", "--num_texts", 2, "--num_images", 1, "--steps", 2, "--out", "read")
if deleted != "microdoppler":
    from jitflow.apps.microdoppler import judge

    # How good its classifiers are has tests of its own.
    evaluate_images = judge.evaluate_images
    judge.evaluate_images = lambda *arguments, **more: evaluate_images(*arguments, **{**more, "num_steps": 3})
    command("microdoppler", "simulate", "--output_dir", "gait", "--num_users", 2, "--images_per_user", 8,
            "--val_fraction", 0.25, "--img_size", 64, "--num_processes", 1)
    command("microdoppler", "extract", "--data_dir", "gait", "--output_path", "latents", "--img_size", 64)
    words = ["--model", "LightningDiT-N/4", "--model.net_settings", '{"depth": 1, "hidden_size": 32, "num_heads": 2}']
    command("microdoppler", "train", "--latent_dir", "latents", "--output_dir", "users", "--max_epochs", 1,
            "--batch_size", 4, "--trainer.accelerator", "cpu", *words)
    command("sample", "users/checkpoints/best.ckpt", "--users", "1", "--steps", 2, "--out", "spectrograms")
    command("evaluate", "users/checkpoints/best.ckpt", "--reference", "gait", "--num_images", 4,
            "--steps", 2, "--out", "walked")
print("lives")
"""
