"""The micro-Doppler commands as the document writes them, at a tiny size."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked_python import forked_python
from PIL import Image
from safetensors import safe_open

from jitflow.apps.microdoppler import stages as microdoppler_run
from jitflow.apps.microdoppler.gait import SpectrogramSettings, write_dataset
from jitflow.cli import main
from jitflow.io.files import load_checkpoint
from jitflow.io.folder_lock import LOCK_NAME, live_holder
from jitflow.run.folder import read_run_record

ROOT = Path(__file__).parents[2]
MODEL = ["--model", "LightningDiT-N/4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gait")
    write_dataset(
        folder,
        num_users=2,
        images_per_user=6,
        val_fraction=0.34,
        settings=SpectrogramSettings(height_px=64, width_px=64),
    )
    return folder


@pytest.fixture(scope="module")
def outputs(data, tmp_path_factory):
    """The complete pipeline, as its script runs it."""
    out = tmp_path_factory.mktemp("outputs")
    done = script(
        "run_complete_pipeline.py",
        *("--data_dir", data, "--output_dir", out, "--batch_size", 4, "--max_epochs", 1),
        *("--num_samples_per_user", 2, "--num_steps", 2, *MODEL),
    )
    assert done.returncode == 0, done.stderr
    return out


def script(name, *words):
    command = [forked_python(), str(ROOT / name), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)


def error_of(capsys, *words):
    capsys.readouterr()
    assert main(["microdoppler", *map(str, words)]) == 1
    text = capsys.readouterr().err.strip().splitlines()[-1]
    assert text.startswith("error: ")
    return text


def test_pipeline_leaves_what_the_document_names(outputs):
    assert (outputs / "latent_features" / "train.safetensors").is_file()
    assert (outputs / "latent_features" / "latents_stats.pt").is_file()
    assert (outputs / "trained_models" / "checkpoints" / "best.ckpt").is_file()
    assert (outputs / "trained_models" / "lightning_logs").is_dir()
    made = sorted(p.name for p in (outputs / "generated_images").glob("*.png"))
    pictures = [f"micro_doppler_user{user:02d}_{i:03d}.png" for user in (1, 2) for i in (1, 2)]
    assert made == sorted([*pictures, "micro_doppler_grid.png"])
    assert Image.open(outputs / "generated_images" / pictures[0]).size == (256, 256)
    with safe_open(outputs / "latent_features" / "train.safetensors", "pt") as file:
        assert file.get_slice("latents").get_shape() == [8, 32, 16, 16]


def test_stage_1_also_writes_shards_for_the_release(outputs, data, tmp_path):
    latents = ["--output_path", str(outputs / "latent_features"), "--batch_size", "4"]
    words = ["microdoppler", "extract", "--data_dir", str(data), *latents, "--shards", str(tmp_path / "shards")]
    assert main(words) == 0
    (shard,) = (tmp_path / "shards").glob("latents_rank*.safetensors")
    with safe_open(shard, "pt") as file, safe_open(outputs / "latent_features" / "train.safetensors", "pt") as own:
        assert torch.equal(file.get_tensor("latents"), own.get_tensor("latents"))
        assert torch.equal(file.get_tensor("latents_flip"), own.get_tensor("latents"))


def test_pipeline_again_does_nothing_twice(outputs, data, monkeypatch):
    def marks():
        return {p: p.stat().st_mtime_ns for p in outputs.rglob("*") if p.is_file()}

    before = marks()
    # In this process, so that it takes no second start of Python.
    monkeypatch.setattr(microdoppler_run, "run_command", main)
    words = [
        *("--data_dir", data, "--output_dir", outputs, "--batch_size", 4, "--max_epochs", 1),
        *("--generate_user_ids", 1, 2, "--num_samples_per_user", 2, "--num_steps", 2, *MODEL),
    ]
    assert main(["microdoppler", "run", *map(str, words)]) == 0
    assert marks() == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_pipeline_that_is_ended_ends_its_stage_which_saves(outputs, data, tmp_path, number):
    shutil.copytree(outputs / "latent_features", tmp_path / "out" / "latent_features")
    words = [
        *("run_complete_pipeline.py", "--data_dir", data, "--output_dir", tmp_path / "out", "--batch_size", 4),
        *("--max_epochs", 100_000, "--num_samples_per_user", 1, "--num_steps", 1, *MODEL),
    ]
    run = tmp_path / "out" / "trained_models"
    saved = 0
    for _ in range(2):
        process = subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        lines = iter(process.stderr.readline, "")
        assert any("step" in line and "loss" in line for line in lines)
        stage = live_holder(run)
        assert stage.pid != process.pid
        process.send_signal(number)
        said = "".join(lines)
        assert process.wait(timeout=60) == (143 if number == signal.SIGTERM else -number), said
        deadline = time.monotonic() + 60
        while live_holder(run) is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "SIGTERM: saving" in said and not (run / LOCK_NAME).exists()
        steps = load_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"]
        assert steps > saved
        saved = steps


def test_pipeline_stops_at_the_first_failure(tmp_path, capsys):
    done = script("run_complete_pipeline.py", "--data_dir", tmp_path / "none", "--output_dir", tmp_path / "out", *MODEL)
    assert done.returncode == 1
    assert "extraction failed" in done.stderr and "jitflow microdoppler extract" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "trained_models").exists()
    assert "nothing to do" in error_of(
        capsys,
        *("run", "--data_dir", tmp_path, "--output_dir", tmp_path / "x"),
        *("--skip_extraction", "--skip_training", "--skip_generation"),
    )
    assert "no latents" in error_of(
        capsys, "run", "--data_dir", tmp_path, "--output_dir", tmp_path / "x", "--skip_extraction"
    )


def test_pictures_are_named_by_their_seed_and_user(outputs, tmp_path, capsys):
    best = outputs / "trained_models" / "checkpoints" / "best.ckpt"
    words = ["--dit_checkpoint", best, "--vavae_path", "builtin", "--num_steps", 2, "--guidance_scale", 4.0]
    assert main(["microdoppler", "sample", *map(str, words), "--output_dir", str(tmp_path), "--user_ids", "2"]) == 0
    record = json.loads((tmp_path / "generation.json").read_text())
    assert [entry["user"] for entry in record["images"]] == [2] * 4
    # The same user, number and seed as in the pipeline's two, so the same pictures up to rounding.
    for i in (1, 2):
        name = f"micro_doppler_user02_{i:03d}.png"
        ours, theirs = (
            torch.frombuffer(bytearray(Image.open(p / name).tobytes()), dtype=torch.uint8).int()
            for p in (tmp_path, outputs / "generated_images")
        )
        assert (ours - theirs).abs().max() <= 1
    # Fewer pictures: none of before can be taken for one of these, and none is lost.
    assert (
        main(
            [
                "microdoppler",
                "sample",
                *map(str, words),
                "--output_dir",
                str(tmp_path),
                *["--num_samples_per_user", "1"],
                "--user_ids",
                "1",
            ]
        )
        == 0
    )
    beside = tmp_path.with_name(f"{tmp_path.name}-2")
    assert sorted(p.name for p in beside.glob("*user*.png")) == ["micro_doppler_user01_001.png"]
    assert len(list(tmp_path.glob("*user*.png"))) == 4


def test_training_goes_on_and_refuses_other_settings(outputs, tmp_path, capsys, caplog):
    folder = tmp_path / "trained"
    shutil.copytree(outputs / "trained_models", folder)
    words = ["train", "--latent_dir", outputs / "latent_features", "--output_dir", folder, "--batch_size", 4, *MODEL]
    # As the pipeline gave them.
    words += ["--devices", 1, "--precision", "16-mixed", "--seed", 42, "--max_steps", -1]
    assert "model.learning_rate 0.00097 (now 0.5)" in error_of(capsys, *words, "--max_epochs", 1, "--lr", 0.5)
    before = read_run_record(folder)
    assert main(["microdoppler", *map(str, words), "--max_epochs", "1"]) == 0
    assert "is finished" in caplog.text and read_run_record(folder) == before
    assert main(["microdoppler", *map(str, words), "--max_epochs", "2"]) == 0
    assert "resuming" in caplog.text
    after = read_run_record(folder)
    assert (after.state, after.epochs, after.steps) == ("finished", 2, 2 * before.steps)


@pytest.mark.slow
def test_two_processes_on_the_cpu(outputs, tmp_path):
    done = script(
        "stage2_train_dit.py",
        *("--latent_dir", outputs / "latent_features", "--output_dir", tmp_path, "--batch_size", 2, "--max_epochs", 1),
        *("--lr", "1e-4", "--devices", 2, "--precision", "16-mixed", *MODEL),
    )
    assert done.returncode == 0, done.stderr
    assert "32-true" in done.stderr
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()
    record = read_run_record(tmp_path)
    assert (record.state, record.application, record.epochs) == ("finished", "microdoppler", 1)


def test_bad_input_is_one_line(outputs, tmp_path, capsys):
    latents, best = outputs / "latent_features", outputs / "trained_models" / "checkpoints" / "best.ckpt"
    train = ["train", "--latent_dir", latents, "--output_dir", tmp_path / "t", *MODEL]
    assert "max_epochs" in error_of(capsys, *train, "--max_epochs", 0)
    assert "max_steps" in error_of(capsys, *train, "--max_steps", 0)
    assert "label_drop_prob" in error_of(capsys, *train, "--model.label_drop_prob", 0)
    assert "LightningDiT" in error_of(capsys, *train[:-1], "LightningDiT-N/5")
    assert "run stage1" in error_of(capsys, *train[:2], tmp_path / "none", *train[3:])
    assert not (tmp_path / "t").exists()

    sample = ["sample", "--output_dir", tmp_path / "s", "--dit_checkpoint"]
    assert "users are 1 to 2" in error_of(capsys, *sample, best, "--user_ids", 1, 3)
    assert "steps" in error_of(capsys, *sample, best, "--num_steps", 0)
    assert "twice" in error_of(capsys, *sample, best, "--user_ids", 1, 1)
    assert "does not exist" in error_of(capsys, *sample, tmp_path / "none.ckpt")
    jit = ROOT / "tests" / "reference" / "jit_tiny_checkpoint-last.pth"
    assert "not a model of microdoppler" in error_of(capsys, *sample, jit)
    # A release's network alone does not know what made its latents.
    release = ROOT / "tests" / "reference" / "lightningdit_tiny_ckpt.pt"
    assert "--vavae_path" in error_of(capsys, *sample, release)
    # A file that is something else says what it holds.
    assert "holds no VA-VAE" in error_of(capsys, *sample, best, "--vavae_path", release, "--user_ids", 1)
    assert not (tmp_path / "s").exists()
    assert main(["microdoppler"]) == 0
    assert "jitflow microdoppler simulate" in capsys.readouterr().out
    assert "extract" in error_of(capsys, "extrat")


def test_latents_of_another_codec_are_refused(outputs, tmp_path, capsys):
    trained, others = tmp_path / "trained", tmp_path / "latents"
    shutil.copytree(outputs / "trained_models", trained)
    small = SpectrogramSettings(height_px=64, width_px=64)
    write_dataset(tmp_path / "others", num_users=2, images_per_user=6, val_fraction=0.34, seed=1, settings=small)
    extract = ["extract", "--data_dir", str(tmp_path / "others"), "--output_path", str(others)]
    assert main(["microdoppler", *extract]) == 0
    words = ["--latent_dir", others, "--output_dir", trained, "--max_epochs", 9, "--batch_size", 4, *MODEL]
    record = (trained / "run.json").read_bytes()
    assert "data.latent_dir" in error_of(capsys, "train", *words)
    # Also where other data are asked for: nothing could decode what is learned from these.
    assert "codec" in error_of(capsys, "train", *words, "--resume", trained)
    assert (trained / "run.json").read_bytes() == record
