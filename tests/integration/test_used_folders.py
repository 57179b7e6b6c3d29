"""Commands that write results into a folder that is used already, and a run's folder in place of a checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import jitflow
from jitflow import cli
from jitflow.apps.microdoppler import judge as judge_module
from jitflow.apps.microdoppler.generate import generate
from jitflow.checkpoint.find import best_or_last, find_model
from jitflow.checkpoint.folder import CheckpointFolder
from jitflow.errors import MissingFileError
from jitflow.io.files import temporary_beside
from jitflow.io.results_folder import free_folder

SMALL = Path(__file__).parents[1] / "data" / "checkpoints_7ea7bf0"
REFERENCE = ("--reference", SMALL / "data" / "images" / "train", "--extractor", "pixels", "--num_images", 10)


def command(*words):
    assert cli.main([str(word) for word in words]) == 0, words


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sample(application, out, *words):
    command("sample", SMALL / f"{application}_recipe", "--steps", 1, "--device", "cpu", "--out", out, *words)


def judge(out, *words):
    command("evaluate", SMALL / "images_recipe", *REFERENCE, "--steps", 1, "--device", "cpu", "--out", out, *words)


@pytest.mark.parametrize("application", ["images", "text", "microdoppler"])
def test_samples_go_to_a_numbered_folder_if_there_are_some(application, tmp_path, caplog):
    caplog.set_level("INFO")
    out = tmp_path / "drawn"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    sample(application, out, "--seed", 1)
    first = tree(out)
    assert "grid" in str(sorted(first)) and first["notes.txt"] == b"mine"
    sample(application, out, "--seed", 2, "--dry_run")
    assert not (tmp_path / "drawn-2").exists()
    for seed, name in ((2, "drawn-2"), (3, "drawn-3")):
        sample(application, out, "--seed", seed)
        assert tree(out) == first
        assert any(f"seed{seed}" in file or application == "microdoppler" for file in tree(tmp_path / name))
    assert any("drawn holds other results" in line and "drawn-2" in line for line in caplog.messages)


@pytest.mark.parametrize("application", ["images", "text", "microdoppler"])
def test_the_record_lists_every_picture(application, tmp_path):
    sample(application, tmp_path / "drawn", "--count", 1)
    (record,) = (tmp_path / "drawn").glob("*.json")
    content = json.loads(record.read_text())
    unit = next(name for name in ("images", "pictures", "samples") if isinstance(content.get(name), list))
    listed = {entry["file"] for entry in content[unit]} | {content["grid"]}
    assert listed == {path.name for path in (tmp_path / "drawn").glob("*.png")}


def test_stage_3_keeps_pictures_of_other_settings(tmp_path):
    def draw(seed):
        settings = {"user_ids": [1], "num_samples_per_user": 1, "num_steps": 1, "device": "cpu"}
        return generate(SMALL / "microdoppler_recipe", tmp_path / "generated_images", seed=seed, **settings)

    assert draw(1) == tmp_path / "generated_images"
    first = tree(tmp_path / "generated_images")
    assert "micro_doppler_user01_001.png" in first
    assert draw(1) == tmp_path / "generated_images"
    assert draw(2) == draw(2) == tmp_path / "generated_images-2"
    assert tree(tmp_path / "generated_images") == first
    # Saving was interrupted before the record: the pictures are drawn again.
    (tmp_path / "generated_images" / "generation.json").unlink()
    assert draw(1) == tmp_path / "generated_images"
    assert tree(tmp_path / "generated_images").keys() == first.keys()


def test_an_evaluation_of_other_settings_goes_to_a_numbered_folder(tmp_path, caplog):
    caplog.set_level("INFO")
    for seed in (1, 2, 2, 1):
        judge(tmp_path / "judged", "--seed", seed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["judged", "judged-2"]
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("judged", "judged-2")]
    assert [report["protocol"]["seed_of_image"][0] for report in reports] == ["1", "2"]
    assert sum("finished already" in line for line in caplog.messages) == 2


def test_an_evaluation_of_texts_or_users_keeps_the_one_before(tmp_path, caplog, capsys):
    caplog.set_level("INFO")
    for name in ("texts", "users"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluation.json").write_text("{}")
    command("evaluate", SMALL / "text_recipe", "--dry_run", "--out", tmp_path / "texts")
    assert "texts-2" in capsys.readouterr().err
    (tmp_path / "real").mkdir()
    for user in (1, 2):
        for i in range(4):
            shutil.copy(next((SMALL / "data" / "images").rglob("*.png")), tmp_path / "real" / f"user_{user:02}_{i}.png")
    words = (
        "--reference",
        tmp_path / "real",
        "--num_images",
        2,
        "--val_fraction",
        0.5,
        "--dry_run",
        "--out",
        tmp_path / "users",
    )
    command("evaluate", SMALL / "microdoppler_recipe", *words)
    assert any("2 spectrograms of 2 users" in line and "users-2" in line for line in caplog.messages)
    assert not (tmp_path / "users-2").exists()


def test_pictures_of_stage_3_are_judged_beside_an_earlier_report(tmp_path, monkeypatch):
    judged = []
    monkeypatch.setattr(judge_module, "evaluate", lambda *arguments, **settings: judged.append(arguments[2]))
    out = tmp_path / "judged"
    words = ("--data_dir", tmp_path, "--generated_dir", tmp_path, "--out", out)
    command("microdoppler", "evaluate", *words)
    out.mkdir()
    (out / "evaluation.json").write_text("{}")
    command("microdoppler", "evaluate", *words)
    assert judged == [str(out), f"{out}-2"]


def test_statistics_are_not_overwritten(tmp_path, capsys):
    words = ["stats", SMALL / "data" / "images", "--img_size", 8, "--extractor", "pixels", "--num_workers", 0]
    command(*words, "--out", tmp_path / "a.npz")
    before = (tmp_path / "a.npz").read_bytes()
    assert cli.main([str(word) for word in [*words, "--out", tmp_path / "a.npz"]]) == 1
    assert "a.npz exists" in capsys.readouterr().err
    assert (tmp_path / "a.npz").read_bytes() == before


def test_a_working_directory_that_is_taken_is_numbered_too(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert free_folder(".", lambda folder: False) == Path()
    assert free_folder(".", lambda folder: folder == Path()) == tmp_path / "here-2"
    assert not (tmp_path / "here-2").exists()


def add_best(run):
    """Commit a copy of the last checkpoint as the best one."""
    place = CheckpointFolder(run / "checkpoints")
    temporary = temporary_beside(place.folder / "best.ckpt")
    shutil.copyfile(place.folder / "checkpoint-last.pth", temporary)
    place.commit(temporary, "best.ckpt", kind="best", step=1)


def test_a_runs_folder_stands_for_its_best_checkpoint_else_its_last(tmp_path, caplog):
    caplog.set_level("INFO")
    run = tmp_path / "run"
    shutil.copytree(SMALL / "images_recipe", run)
    file = run / "checkpoints" / "last.ckpt"
    assert find_model(file) == file and find_model("nowhere") == Path("nowhere")
    assert find_model(run).name == find_model(run / "checkpoints").name == "checkpoint-last.pth"
    assert "last checkpoint, checkpoint-last.pth" in caplog.messages[-1]
    add_best(run)
    assert find_model(run) == run / "checkpoints" / "best.ckpt"
    assert "best checkpoint, best.ckpt" in caplog.messages[-1]
    # A damaged one is left out.
    (run / "checkpoints" / "best.ckpt").write_bytes(b"cut")
    assert best_or_last(run) == (run / "checkpoints" / "checkpoint-last.pth", "last")
    (tmp_path / "pipeline").mkdir()
    run.rename(tmp_path / "pipeline" / "trained_models")
    assert best_or_last(tmp_path / "pipeline")[1] == "last"
    with pytest.raises(MissingFileError, match="no complete checkpoint"):
        jitflow.load(SMALL / "data")


def test_every_command_takes_a_runs_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run, first = SMALL / "images_recipe", ("--guidance", 1, "--steps", 1, "--device", "cpu")
    assert jitflow.load(run, device="cpu").source == str(run / "checkpoints" / "checkpoint-last.pth")
    command("export", run, "exported", "--license", "mit")
    command("convert", run, "converted.safetensors")
    command("sweep", run, *REFERENCE, *first, "--out", "swept")
    command("images", "sample", run, "--labels", 1, *first, "--out", "drawn")
    command("text", "evaluate", SMALL / "text_recipe", "--dry_run")
    command("info", run)
    capsys.readouterr()
    assert cli.main(["text", "sample", str(run)]) == 1
    assert "no model of text" in capsys.readouterr().err
    assert cli.main(["evaluate", str(SMALL / "data"), "--dry_run"]) == 1
    assert "no complete checkpoint" in capsys.readouterr().err
