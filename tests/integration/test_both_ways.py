"""A text model trained by documented words and one trained by a recipe are treated alike by every command."""

from __future__ import annotations

import html
import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from interruption import At, Interruption, power_cut
from tiny import TEXT, TEXT_NET, assert_same_training, epochs_done, train_text, write_corpus

import jitflow
from jitflow import cli
from jitflow.apps.text.data import TextDataModule
from jitflow.apps.text.held_out import read_texts
from jitflow.apps.text.judge import REPORT_NAME
from jitflow.checkpoint.find import find_checkpoint
from jitflow.errors import DataError, MissingFileError
from jitflow.io.files import read_json
from jitflow.run.describe import describe_run
from jitflow.run.fit import fit
from jitflow.run.folder import read_run_record
from jitflow.run.recipe import override, read_recipe
from jitflow.run.report import write_report

WAYS = ("documented", "recipe")


def words(way: str, text: Path | str, out: Path, *, epochs: int = 1) -> list[str]:
    """The command that trains."""
    if way == "documented":
        options = {
            **TEXT,
            "data_path": text,
            "output_dir": out,
            "epochs": epochs,
            "model.net_settings": json.dumps(TEXT_NET),
            "save_interval": 1,
            "trainer.accelerator": "cpu",
        }
        for word in ("net_settings", "accelerator"):
            del options[word]
        command = ["text", "train"]
    else:
        options = {
            "config": "text/jit_n4_bytes",
            "run_dir": out,
            "data.data_path": text,
            "data.img_size": 16,
            # Another share than by default, which only the recipe knows.
            "data.val_fraction": 0.2,
            "model.img_size": 16,
            "model.net_settings": json.dumps(TEXT_NET),
            "trainer.max_epochs": epochs,
            "trainer.accelerator": "cpu",
        }
        command = ["train"]
    return [*command, *(str(word) for name, value in options.items() for word in (f"--{name}", value))]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("inputs") / "own text")


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory) -> dict[str, Path]:
    """The folder of a training by each way."""
    place = tmp_path_factory.mktemp("runs")
    for way in WAYS:
        assert cli.main(words(way, text, place / way)) == 0
    return {way: place / way for way in WAYS}


@pytest.fixture(params=WAYS)
def way(request) -> str:
    return request.param


@pytest.fixture
def run_dir(trained, way, tmp_path) -> Path:
    """A copy of a training."""
    return shutil.copytree(trained[way], tmp_path / "a run", symlinks=True)


def held_out_ids(text: Path, *, val_fraction: float) -> torch.Tensor:
    data = TextDataModule(text, img_size=16, val_fraction=val_fraction, random_offset=False)
    data.setup("fit")
    return torch.from_numpy(data.dataset_val.stream.ids.copy())


# ------------------------------------------------------------------------------------------------- evaluating


def test_it_is_judged_on_what_was_held_out_of_its_own_text(text, trained, way):
    checkpoint = find_checkpoint(trained[way])
    texts = read_texts(jitflow.load(checkpoint, device="cpu").module, checkpoint)
    expected = held_out_ids(text, val_fraction=0.2 if way == "recipe" else 0.05)
    assert torch.equal(torch.from_numpy(texts.held_out.stream.ids.copy()), expected)
    assert texts.train.stream.num_documents + texts.held_out.stream.num_documents == 60


def test_the_command_judges_on_it_as_well(text, trained, way, tmp_path, monkeypatch):
    monkeypatch.setattr("jitflow.apps.text.data.builtin_documents", lambda split: pytest.fail("the built-in corpus"))
    checkpoint = str(find_checkpoint(trained[way]))
    quick = ["--num_texts", "4", "--num_images", "0", "--steps", "2", "--device", "cpu"]
    for name, more in (("recorded", []), ("named", ["--reference", str(text)])):
        assert cli.main(["text", "evaluate", checkpoint, *quick, *more, "--out", str(tmp_path / name)]) == 0
    recorded, named = (read_json(tmp_path / name / REPORT_NAME) for name in ("recorded", "named"))
    assert recorded["held_out"] == named["held_out"]


def test_the_general_verbs_judge_and_sweep_it(trained, way, tmp_path, capsys):
    checkpoint = str(find_checkpoint(trained[way]))
    quick = ["--num_texts", "4", "--num_images", "0", "--steps", "2", "--device", "cpu"]
    for name, verb in (("general", ["evaluate"]), ("own", ["text", "evaluate"])):
        assert cli.main([*verb, checkpoint, *quick, "--out", str(tmp_path / name)]) == 0
    general, own = (read_json(tmp_path / name / REPORT_NAME) for name in ("general", "own"))
    assert general == own
    swept = ["--num_images", "4", "--steps", "2,3", "--ema", "1", "--device", "cpu", "--out", str(tmp_path / "sweep")]
    capsys.readouterr()
    assert cli.main(["sweep", checkpoint, *swept]) == 0
    said = capsys.readouterr()
    points = [read_json(path) for path in (tmp_path / "sweep" / "points").iterdir()]
    assert len(points) == 2 and all(0 <= point["text_recovery_accuracy"] <= 1 for point in points)
    # The command that is printed for the best point runs.
    (command,) = [line.partition(": ")[2] for line in said.err.splitlines() if "jitflow evaluate" in line]
    assert cli.main([*shlex.split(command)[1:], *quick[:4]]) == 0


def test_a_recorded_text_that_is_gone_is_one_error(way, tmp_path, capsys):
    text = write_corpus(tmp_path / "gone")
    assert cli.main([*words(way, text, tmp_path / "run"), *_one_step(way)]) == 0
    shutil.rmtree(text)
    checkpoint = find_checkpoint(tmp_path / "run")
    capsys.readouterr()
    assert cli.main(["text", "evaluate", str(checkpoint), "--out", str(tmp_path / "e"), "--device", "cpu"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert str(text) in error and "--reference" in error


def test_the_documented_folder_may_have_been_the_built_in_corpus(way, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corpus = [f"the built-in corpus, text {i}" * 9 for i in range(20)]
    monkeypatch.setattr("jitflow.apps.text.data.builtin_documents", lambda split: corpus)
    assert cli.main([*words(way, "./data/train", Path("on_corpus")), *_one_step(way)]) == 0
    write_corpus(Path("data/train"))
    assert cli.main([*words(way, "./data/train", Path("on_files")), *_one_step(way)]) == 0
    shutil.rmtree("data")
    for folder, is_corpus in (("on_corpus", True), ("on_files", False)):
        checkpoint = find_checkpoint(folder)
        module = jitflow.load(checkpoint, device="cpu").module
        if is_corpus:
            assert read_texts(module, checkpoint).held_out.stream.num_documents == 20
        else:
            with pytest.raises(MissingFileError, match="--reference"):
                read_texts(module, checkpoint)


def _one_step(way: str) -> list[str]:
    return ["--max_steps" if way == "documented" else "--trainer.max_steps", "1"]


# --------------------------------------------------------------------------------------------------- going on


def test_the_same_command_finds_it_finished_and_a_longer_one_goes_on(text, run_dir, way, caplog):
    # The record says where it was; the command where it is.
    before = {file: file.stat().st_mtime_ns for file in run_dir.rglob("*")}
    assert cli.main(words(way, text, run_dir)) == 0
    assert "is finished" in caplog.text
    assert {file: file.stat().st_mtime_ns for file in run_dir.rglob("*")} == before
    assert cli.main(words(way, text, run_dir, epochs=2)) == 0
    record = read_run_record(run_dir)
    assert (record.state, record.epochs) == ("finished", 2)


def test_another_command_is_refused_and_changes_nothing(text, run_dir, way, capsys):
    before = {file: file.read_bytes() for file in run_dir.rglob("*") if file.is_file()}
    option, name = ("--lr", "model.learning_rate") if way == "documented" else ("--data.batch_size", "data.batch_size")
    capsys.readouterr()
    assert cli.main([*words(way, text, run_dir), option, "7"]) == 1
    error = capsys.readouterr().err
    assert name in error and "(now 7" in error and "--restart" in error
    assert {file: file.read_bytes() for file in run_dir.rglob("*") if file.is_file()} == before


def test_it_goes_on_with_other_data_where_an_epoch_ends_and_only_when_asked(run_dir, way, tmp_path, capsys, caplog):
    record = (run_dir / "run.json").read_bytes()
    more = write_corpus(tmp_path / "more", documents=80)
    capsys.readouterr()
    assert cli.main(words(way, more, run_dir, epochs=2)) == 1
    assert "data.data_path" in capsys.readouterr().err and (run_dir / "run.json").read_bytes() == record
    assert cli.main([*words(way, more, run_dir, epochs=2), "--resume", str(run_dir)]) == 0
    assert "resumes with" in caplog.text
    record = read_run_record(run_dir)
    assert record.epochs == 2 and record.data["num_documents"] > 60
    # The data lie where they were and are others: found by what they are.
    write_corpus(more, documents=70)
    assert cli.main(words(way, more, run_dir, epochs=3)) == 1
    assert "other data" in capsys.readouterr().err


def test_inside_an_epoch_other_data_are_refused_before_anything_is_written(text, tmp_path):
    saving = {"checkpoint.save_last_every_n_steps": 2}
    with pytest.raises(Interruption):
        train_text(text, tmp_path / "run", epochs=1, settings=saving, callbacks=[At(5, power_cut)], **TEXT)
    before = {file: file.read_bytes() for file in (tmp_path / "run").glob("*.json")}
    more = write_corpus(tmp_path / "more", documents=80)
    for folder in ({}, {"output_dir": tmp_path / "another"}):
        with pytest.raises(DataError, match="inside an epoch"):
            train_text(more, resume=tmp_path / "run", **folder)
    assert {file: file.read_bytes() for file in (tmp_path / "run").glob("*.json")} == before
    assert not (tmp_path / "another").exists()


def test_both_commands_resume_it_and_end_bit_equal(run_dir, tmp_path, caplog):
    other = shutil.copytree(run_dir, tmp_path / "other", symlinks=True)
    assert cli.main(["text", "train", "--resume", str(run_dir), "--epochs", "2", "--trainer.accelerator", "cpu"]) == 0
    assert cli.main(["train", "--resume", str(other), "--trainer.max_epochs", "2"]) == 0
    assert caplog.text.count("trainer.max_epochs 1 (now 2)") == 2
    first, second = find_checkpoint(run_dir), find_checkpoint(other)
    assert epochs_done(first) == 2 and first.relative_to(run_dir) == second.relative_to(other)
    assert_same_training(first, second)


def test_the_command_that_is_printed_goes_on(text, way, trained, tmp_path, capsys):
    run_dir = tmp_path / "a run"
    with pytest.raises(Interruption):
        if way == "documented":
            stop = [At(5, power_cut)]
            train_text(
                text,
                run_dir,
                epochs=1,
                save_interval=1,
                settings={"checkpoint.save_last_every_n_steps": 2},
                callbacks=stop,
                **TEXT,
            )
        else:
            settings = {
                "data.data_path": str(text),
                "data.img_size": 16,
                "data.val_fraction": 0.2,
                "model.img_size": 16,
                "model.net_settings": TEXT_NET,
                "trainer.max_epochs": 1,
                "trainer.accelerator": "cpu",
                "checkpoint.save_last_every_n_steps": 2,
            }
            fit(override(read_recipe("text/jit_n4_bytes"), settings), run_dir, callbacks=[At(5, power_cut)])
    run = describe_run(run_dir)
    assert (run.state, run.steps) == ("unfinished", 4)
    capsys.readouterr()
    assert cli.main(["runs", str(tmp_path)]) == 0
    (printed,) = (line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  jitflow"))
    assert printed == run.continuation
    assert printed in html.unescape(write_report(run_dir).read_text())
    assert cli.main(shlex.split(printed)[1:]) == 0
    assert describe_run(run_dir).state == "finished"
    assert_same_training(find_checkpoint(run_dir), find_checkpoint(trained[way]))


# --------------------------------------------------------------------------------------------- where it writes


def test_resume_goes_on_in_the_folder_of_the_checkpoint(text, run_dir, way, tmp_path, monkeypatch):
    """Not in the folder of the recipe's name, where another run lies."""
    monkeypatch.chdir(tmp_path)
    mine = Path("runs/text_jit_n4_bytes" if way == "recipe" else "output")
    shutil.copytree(run_dir, mine, symlinks=True)
    before = {file: file.read_bytes() for file in mine.rglob("*") if file.is_file()}
    if way == "recipe":
        more = ["--config", "text/jit_n4_bytes", "--trainer.max_epochs", "2", "--data.data_path", str(text)]
        more += ["--data.img_size", "16", "--data.val_fraction", "0.2", "--model.img_size", "16"]
        more = ["train", *more, "--model.net_settings", json.dumps(TEXT_NET), "--trainer.accelerator", "cpu"]
    else:
        more = ["text", "train", "--epochs", "2", "--trainer.accelerator", "cpu"]
    assert cli.main([*more, "--resume", str(run_dir)]) == 0
    assert epochs_done(find_checkpoint(run_dir)) == 2
    assert {file: file.read_bytes() for file in mine.rglob("*") if file.is_file()} == before


def test_resume_never_writes_into_a_folder_that_holds_another_run(text, run_dir, way, tmp_path, capsys):
    other = tmp_path / "other"
    assert cli.main([*words(way, text, other), "--seed" if way == "documented" else "--seed_everything", "7"]) == 0
    before = {file: file.read_bytes() for file in other.rglob("*") if file.is_file()}
    capsys.readouterr()
    folder = "--output_dir" if way == "documented" else "--run_dir"
    command = ["text", "train"] if way == "documented" else ["train"]
    assert cli.main([*command, "--resume", str(run_dir), folder, str(other)]) == 1
    assert f"{other} holds another run" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in other.rglob("*") if file.is_file()} == before


def test_restart_throws_away_only_when_nothing_is_wrong(text, run_dir, way, capsys):
    before = {file: file.read_bytes() for file in run_dir.rglob("*") if file.is_file()}
    name = "model" if way == "documented" else "model.model_name"
    assert cli.main([*words(way, text, run_dir), "--restart", f"--{name}", "JiT-B/5"]) == 1
    assert "JiT-B/5" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in run_dir.rglob("*") if file.is_file()} == before
    assert cli.main([*words(way, text, run_dir), *_one_step(way), "--restart"]) == 0
    record = read_run_record(run_dir)
    assert (record.state, record.steps) == ("finished", 1)
