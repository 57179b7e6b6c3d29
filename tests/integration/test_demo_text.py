"""The text demo with hardly any steps: its files, its numbers' names, running it again, breaking it off."""

from __future__ import annotations

import shutil

import pytest
import torch
from PIL import Image

from jitflow import cli
from jitflow.apps.text.colour import ColourCodec
from jitflow.apps.text.tokenizer import ByteTokenizer
from jitflow.errors import ConfigError
from jitflow.io.files import load_checkpoint, read_json
from jitflow.verbs import demo_text
from jitflow.verbs.demo_text import run


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "text"
    return out, run(out, seed=3, quick=True)


def test_the_metrics_carry_the_promised_names(done):
    out, metrics = done
    assert read_json(out / "metrics.json") == metrics
    for name in ("token_accuracy", "unigram_baseline", "context_free_baseline"):
        assert {"0.1", "0.2", "0.3", "0.4", "0.5"} <= set(metrics[name])
        assert all(0 <= share <= 1 for share in metrics[name].values())
    assert 0 <= metrics["text_recovery_accuracy"] <= 1
    assert set(metrics["ngram_perplexity"]) == {"samples", "held_out", "shuffled"}
    assert metrics["ngram_perplexity"]["held_out"] < metrics["ngram_perplexity"]["shuffled"]
    assert metrics["train_steps"] == 4
    assert metrics["settings"]["seed"] == 3


def test_the_files_are_what_they_are_called(done):
    out, metrics = done
    for name in ("accuracy.png", "loss.png", "text.png"):
        with Image.open(out / name) as image:
            assert min(image.size) > 100
    written = (out / "samples.txt").read_text()
    assert written.startswith("--- prompt 'The'\nThe")
    assert written.count("--- seed ") == 2
    assert all(text.startswith("The") for text in metrics["continuations"])
    shown = (out / "text.txt").read_text()
    assert "left: a held-out text" in shown


def test_the_first_picture_is_the_text_beside_it(done):
    out, _ = done
    with Image.open(out / "text.png") as image:
        side = (image.height - 24) // 16
        pixels = [
            [image.getpixel((12 + x * side + side // 2, 12 + y * side + side // 2)) for x in range(16)]
            for y in range(16)
        ]
    x = torch.tensor(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    ids = ColourCodec(ByteTokenizer.vocab_size, "codebook", 16).tokens(x)[0].tolist()
    assert f"--- left: a held-out text\n{ByteTokenizer().decode(ids)}\n" in (out / "text.txt").read_text()


def test_a_finished_demo_reports_without_computing(done, monkeypatch, capsys):
    out, metrics = done
    monkeypatch.setattr(demo_text, "train", None)
    monkeypatch.setattr(demo_text, "evaluate", None)
    assert run(out, seed=3, quick=True) == metrics
    printed = capsys.readouterr().out
    assert "without context is nearest one half" in printed
    assert "written from noise, seed 3" in printed


def test_other_settings_in_the_same_folder_are_an_error(done):
    with pytest.raises(ConfigError, match="other settings"):
        run(done[0], seed=4, quick=True)


def test_an_interrupted_demo_goes_on_with_what_is_there(done, tmp_path, monkeypatch):
    out, metrics = done
    again = shutil.copytree(out, tmp_path / "text")
    (again / "metrics.json").unlink()
    shutil.rmtree(again / "evaluation")

    def no_training(*args, **kwargs):
        raise AssertionError("the training was finished")

    monkeypatch.setattr(demo_text, "train", no_training)
    resumed = run(again, seed=3, quick=True)
    for name, value in metrics.items():
        if name not in ("seconds", "settings"):
            assert resumed[name] == value, name


def test_a_training_that_was_broken_off_is_resumed(tmp_path, monkeypatch):
    whole = demo_text.train

    def broken_off(*args, **kwargs):
        if "resume" not in kwargs:
            whole(*args, **{**kwargs, "max_steps": 2})
            raise KeyboardInterrupt
        # The file records the shorter training that this test has made.
        return whole(*args, **kwargs, max_steps=4)

    monkeypatch.setattr(demo_text, "train", broken_off)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "text", quick=True)
    assert not (tmp_path / "text" / "metrics.json").exists()
    assert load_checkpoint(tmp_path / "text" / "training" / "checkpoint-last.pth")["global_step"] == 2
    metrics = run(tmp_path / "text", quick=True)
    assert metrics["train_steps"] == 4


def test_restart_removes_what_the_demo_wrote_and_nothing_else(done, tmp_path, monkeypatch):
    again = shutil.copytree(done[0], tmp_path / "text")
    (again / "mine.txt").write_text("kept")

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_text, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        run(again, seed=5, restart=True, quick=True)
    assert sorted(p.name for p in again.iterdir()) == ["mine.txt", "settings.json"]


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tmp_path, capsys):
    assert cli.main(["demo", "text", "--out", str(tmp_path / "text"), "--dry_run"]) in (0, None)
    assert "would start" in capsys.readouterr().err
    assert not (tmp_path / "text").exists()
