"""What a run or a file is, told from what lies there."""

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from jitflow.apps.images.module import JiTLightningModule
from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.apps.text.module import TextLightningModule
from jitflow.checkpoint.folder import CheckpointFolder
from jitflow.codec.linear import LinearCodec
from jitflow.errors import CheckpointError, ConfigError, MissingFileError
from jitflow.evaluation.frechet import save_statistics
from jitflow.inspect.info import describe_path
from jitflow.io.files import temporary_beside
from jitflow.io.units import format_bytes, format_count, size_on_disk
from jitflow.run.curves import history_curve, read_curves
from jitflow.run.describe import describe_run, find_runs
from jitflow.run.folder import RunRecord, read_run_record, write_run_record
from jitflow.run.next_command import continue_command
from jitflow.verbs.inspect import runs

NET = {"patch_size": 1, "hidden_size": 32, "depth": 1, "num_heads": 2, "use_rope": True, "use_rmsnorm": True}


def write_checkpoint(path, module, *, epochs=3, steps=12, **extra):
    checkpoint = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "epoch": epochs,
        "global_step": steps,
        "loops": {"fit_loop": {"epoch_progress": {"current": {"processed": epochs}}}},
        **extra,
    }
    module.on_save_checkpoint(checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, path)
    return path


@pytest.fixture(scope="module")
def images():
    return JiTLightningModule(model_name="JiT-N/4", img_size=8, num_classes=5, in_channels=1)


@pytest.fixture
def run_folder(tmp_path, images):
    folder = tmp_path / "runs" / "mine"
    write_checkpoint(folder / "checkpoints" / "checkpoint-last.pth", images)
    model = {"class_path": "jitflow.apps.images.module.JiTLightningModule", "init_args": {"model_name": "JiT-N/4"}}
    settings = {"model": model, "trainer": {"max_epochs": 5, "max_steps": -1}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "environment.json").write_text(json.dumps({"command": "/bin/jitflow train --config x", "seed": 3}))
    return folder


def write_log(path, rows):
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["epoch", "step", "train/loss", "val/loss_ema"])
        writer.writeheader()
        writer.writerows(rows)


def test_amounts_in_words(tmp_path):
    assert [format_bytes(n) for n in (0, 999, 1000, 14_762_737, 2_600_000_000)] == [
        "0 B", "999 B", "1 kB", "14.8 MB", "2.6 GB",
    ]  # fmt: skip
    assert [format_count(n) for n in (7, 131_000_000, 2_010_000_000)] == ["7", "131M", "2.01G"]
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert size_on_disk(tmp_path) == size_on_disk(tmp_path / "a") == 5


def test_parts_of_a_log_are_one_curve_and_the_later_part_counts(tmp_path):
    write_log(tmp_path / "csv/version_1/metrics.csv", [{"step": 10, "train/loss": 2.0}, {"step": 20, "train/loss": 1}])
    write_log(
        tmp_path / "csv/version_0/metrics.csv",
        [{"step": 0, "train/loss": 9.0, "epoch": 0}, {"step": 10, "train/loss": "nan"}, {"step": 5, "train/loss": 4}],
    )
    # Whatever their names, the file written last is the later part.
    os.utime(tmp_path / "csv/version_1/metrics.csv", (1, 1))
    with (tmp_path / "csv/version_0/metrics.csv").open("a") as file:
        file.write("0,20,7.0,\n0,3")
    assert read_curves(tmp_path) == {"train/loss": [(0, 9.0), (5, 4.0), (10, 2.0), (20, 7.0)]}
    kept = {"callbacks": {"TrainingHistory": {"losses": [3.0, float("nan"), 1.0]}}}
    assert history_curve(kept) == [(1, 3.0), (3, 1.0)]
    assert history_curve({}) == []


def test_an_unfinished_run_says_how_to_go_on_where_it_lies_now(run_folder, tmp_path):
    write_log(run_folder / "csv/version_0/metrics.csv", [{"step": 4, "val/loss_ema": v} for v in (0.5,)])
    moved = tmp_path / "other place"
    run_folder.rename(moved)
    run = describe_run(moved)
    assert (run.application, run.network, run.state) == ("images", "JiT-N/4", "unfinished")
    assert (run.steps, run.epochs) == (12, 3) and "goal 5 epochs" in run.detail
    assert run.score == ("lowest val/loss_ema", 0.5)
    assert run.command == run.continuation == f"jitflow train --resume '{moved}'"


def test_a_run_is_finished_at_its_last_epoch_or_step_or_when_it_says_so(run_folder, images):
    path = run_folder / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    for trainer, state in (
        ({"max_epochs": 3}, "finished"),
        ({"max_epochs": 4}, "unfinished"),
        ({"max_epochs": 4, "max_steps": 12}, "finished"),
        ({"max_epochs": 4, "max_steps": 13}, "unfinished"),
    ):
        path.write_text(yaml.safe_dump({**settings, "trainer": trainer}))
        assert describe_run(run_folder).state == state, trainer
    (run_folder / "metrics.json").write_text(json.dumps({"class_agreement": 0.9, "fid": 3.5}))
    run = describe_run(run_folder)
    assert run.state == "finished" and run.score == ("fid", 3.5)
    assert run.command.startswith("jitflow sample ") and "checkpoint-last.pth" in run.command


def test_damaged_checkpoints_are_named_and_an_older_one_counts(run_folder, images):
    last = run_folder / "checkpoints" / "checkpoint-last.pth"
    last.write_bytes(last.read_bytes()[:1000])
    run = describe_run(run_folder)
    assert run.state == "damaged" and "checkpoint-last.pth: it was truncated" in run.detail
    older = write_checkpoint(run_folder / "checkpoints" / "checkpoint-1.pth", images, epochs=1, steps=4)
    os.utime(older, (1, 1))
    run = describe_run(run_folder)
    assert run.state == "unfinished" and run.checkpoint == older and "newer ones are damaged" in run.detail


def test_runs_are_found_below_a_folder_and_a_stage_belongs_to_its_run(run_folder, images, tmp_path, capsys):
    stage = tmp_path / "runs" / "deep" / "er" / "users"
    write_checkpoint(stage / "trained_models" / "checkpoints" / "best.ckpt", images)
    (tmp_path / "runs" / "no run").mkdir()
    assert find_runs([tmp_path / "runs"]) == [stage, run_folder]
    # On another disk, once more under its name of today, and a loop.
    shutil.copytree(run_folder, tmp_path / "disk" / "far")
    for link, place in {"linked": tmp_path / "disk", "latest": run_folder, "loop": tmp_path / "runs"}.items():
        (tmp_path / "runs" / link).symlink_to(place)
    assert find_runs([tmp_path / "runs"]) == [stage, tmp_path / "runs" / "linked" / "far", run_folder]
    runs([str(tmp_path / "runs")])
    said = capsys.readouterr().out
    assert str(run_folder) in said and "unfinished" in said and f"--resume {run_folder}" in said
    with pytest.raises(MissingFileError, match="jitflow demo images"):
        runs([str(tmp_path / "runs" / "no run")])
    with pytest.raises(ConfigError, match="holds no run"):
        describe_run(tmp_path / "runs" / "no run")


@pytest.mark.parametrize(
    ("recorded", "has_settings", "expected"),
    [
        (".venv/bin/jitflow demo images --seed 1", True, "jitflow demo images --out here"),
        ("/x/jitflow/__main__.py demo", False, "jitflow demo images --out here"),
        ("train.py --epochs 3", True, "jitflow train --resume here"),
        ("stage2_train_dit.py --lr 1", False, "python stage2_train_dit.py --lr 1"),
        ("", False, ""),
        ("an 'open quote", False, ""),
    ],
)
def test_command_that_goes_on(tmp_path, monkeypatch, recorded, has_settings, expected):
    monkeypatch.chdir(tmp_path)
    folder = Path("here")
    folder.mkdir()
    if has_settings:
        (folder / "config.yaml").write_text("model: {}")
    assert continue_command(folder, folder, None, recorded) == expected
    # What run.json says wins, but for the place, which may be another one by now.
    record = RunRecord("text", {}, "running", command="jitflow train --resume elsewhere")
    assert continue_command(folder, folder, record, recorded) == "jitflow train --resume here"


def test_what_run_json_says_of_a_run_counts(run_folder):
    settings = yaml.safe_load((run_folder / "config.yaml").read_text())
    record = RunRecord("images", settings, "interrupted", data={"num_samples": 7, "fingerprint": "f" * 64})
    for state, detail, expected in (
        ("running", "", "unfinished"),
        ("interrupted", "", "unfinished"),
        ("failed", "DataError: x.png is damaged", "unfinished"),
        # By the steps it asked for, however many there are.
        ("finished", "", "finished"),
    ):
        write_run_record(run_folder, replace(record, state=state, detail=detail))
        run = describe_run(run_folder)
        assert run.state == expected and detail in run.detail and run.data["num_samples"] == 7
        assert read_run_record(run_folder) == replace(record, state=state, detail=detail)
    (run_folder / "run.json").write_text("no json")
    assert describe_run(run_folder).state == "unfinished"
    with pytest.raises(ConfigError, match=r"run\.json"):
        read_run_record(run_folder)


def test_info_of_models_of_all_applications(images, tmp_path):
    path = write_checkpoint(tmp_path / "a.ckpt", images, optimizer_states=[{"state": {}, "param_groups": []}])
    info = describe_path(path)
    assert info.kind == "training checkpoint (Lightning)"
    assert info.facts["application"] == "images" and info.facts["images"] == "8x8, 1 channels"
    assert info.facts["classes"] == "5" and info.facts["training"].startswith("12 steps, 3 epochs")
    assert info.facts["averages"].startswith("none") and info.facts["optimiser"].startswith("yes")
    assert info.commands[0] == f"jitflow sample {path} --count 4"
    net = {"hidden_size": 32, "depth": 1, "num_heads": 2, "bottleneck_dim": 16}
    text = TextLightningModule("bytes", img_size=16, net_settings=net)
    info = describe_path(write_checkpoint(tmp_path / "t.ckpt", text))
    assert info.facts["application"] == "text" and info.facts["tokenizer"].startswith("bytes")
    assert "hidden_size 32" in info.facts["network"] and info.commands[0].startswith("jitflow sample")


def test_info_of_users_and_their_codec(tmp_path):
    pictures = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
    linear = LinearCodec.fit([pictures], num_components=4, patch_size=4)
    linear.export(tmp_path / "linear_codec.safetensors")
    info = describe_path(tmp_path / "linear_codec.safetensors")
    assert info.kind == "linear codec of images" and "4 x 48" in info.facts["components"]
    users = UserConditionedDiT(num_users=3, model_name="LightningDiT", latent_shape=(4, 2, 2), net_settings=NET)
    users.adopt_data(
        {
            "num_classes": 3,
            "user_ids": [1, 4, 7],
            "latent_shape": (4, 2, 2),
            "mean": [0.0] * 4,
            "std": [1.0] * 4,
            "codec": {"id": linear.id, "checksum": linear.checksum, "img_size": [8, 8]},
            "linear_codec": tmp_path / "linear_codec.safetensors",
        }
    )
    info = describe_path(write_checkpoint(tmp_path / "u.ckpt", users))
    assert info.facts["users"] == "3: 1, 4, 7" and "inside this file" in info.facts["codec"]
    assert info.commands[0].startswith("jitflow sample")


def test_info_of_statistics_records_and_unknown_things(tmp_path, run_folder):
    save_statistics(tmp_path / "ref.npz", torch.zeros(4), torch.eye(4), extractor="digits", num_images=100)
    info = describe_path(tmp_path / "ref.npz")
    assert info.kind == "reference statistics of real images"
    assert (info.facts["features"], info.facts["extractor"], info.facts["num_images"]) == ("4", "digits", "100")
    np.savez(tmp_path / "odd.npz", something=np.zeros(3))
    assert "something" in describe_path(tmp_path / "odd.npz").facts["arrays"]
    save_file({"weight": torch.zeros(2, 3)}, tmp_path / "odd.safetensors")
    info = describe_path(tmp_path / "odd.safetensors")
    assert info.kind == "tensors of unknown origin" and "weight" in info.facts["tensors"]
    (tmp_path / "odd.xyz").write_bytes(b"hello")
    info = describe_path(tmp_path / "odd.xyz")
    assert info.kind == "unknown" and info.facts["begins with"] == "b'hello'" and info.facts["size"] == "5 B"
    assert describe_path(run_folder / "environment.json").kind == "JSON of unknown origin"
    info = describe_path(run_folder)
    assert info.kind == "run" and info.facts["seed"] == "3" and "unfinished" in info.facts["state"]
    assert info.commands[-1] == f"jitflow report {run_folder}"
    assert describe_path(run_folder / "config.yaml").kind == "recipe of a training"
    torch.save({"mean": torch.zeros(1, 4, 1, 1), "std": torch.ones(1, 4, 1, 1)}, tmp_path / "latents_stats.pt")
    assert describe_path(tmp_path / "latents_stats.pt").kind == "statistics of latents"


def test_info_refuses_what_is_missing_or_damaged(tmp_path):
    with pytest.raises(MissingFileError, match="jitflow runs"):
        describe_path(tmp_path / "nothing")
    for name, kind in (("a.npz", ConfigError), ("a.safetensors", CheckpointError), ("a.ckpt", CheckpointError)):
        (tmp_path / name).write_bytes(b"no such thing")
        with pytest.raises(kind, match=r"a\."):
            describe_path(tmp_path / name)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match="image"):
        describe_path(tmp_path / "bad.png")


def test_the_data_of_a_run_are_named(run_folder, capsys):
    assert "data" not in describe_path(run_folder).facts
    record = {"num_samples": 12, "num_classes": 3, "fingerprint": "0123456789abcdef" * 4}
    (run_folder / "data.json").write_text(json.dumps(record))
    assert describe_path(run_folder).facts["data"] == "12 samples, 3 classes, fingerprint 0123456789ab"
    runs([str(run_folder.parent)])
    assert " 01234567 " in capsys.readouterr().out


def test_in_a_copied_folder_the_newest_checkpoint_is_that_of_most_steps(tmp_path, images):
    """A copy has lost the order in which the files were written."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "environment.json").write_text("{}")
    manifest = CheckpointFolder(folder / "checkpoints")
    for name, steps in (("checkpoint-4.pth", 40), ("checkpoint-last.pth", 50), ("checkpoint-2.pth", 20)):
        made = temporary_beside(folder / "checkpoints" / name)
        write_checkpoint(made, images, steps=steps)
        manifest.commit(made, name, kind="milestone", step=steps)
    newest = folder / "checkpoints" / "checkpoint-last.pth"
    os.utime(newest, (1, 1))
    assert describe_run(folder).checkpoint == newest and describe_run(folder).steps == 50
    newest.write_bytes(b"cut short")
    assert describe_run(folder).steps == 40 and "newer ones are damaged" in describe_run(folder).detail
