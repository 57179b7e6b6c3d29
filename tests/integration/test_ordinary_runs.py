"""Short trainings by documented commands, whose samples a judge of real data recognises."""

import json

import numpy as np
import pytest

import jitflow
from jitflow.apps.images.digit_judge import DigitJudge
from jitflow.cli import main

pytestmark = pytest.mark.slow


def run(*words):
    assert main([str(word) for word in words]) == 0


def test_digits_are_read_after_300_steps(tmp_path):
    out = tmp_path / "digits"
    run("train", "--config", "images/digits", "--run_dir", out, "--trainer.max_steps", 300)
    labels = [digit for digit in range(10) for _ in range(20)]
    samples = jitflow.load(out / "checkpoints" / "last.ckpt").sample(labels, batch_size=200)
    assert np.mean(DigitJudge().read(samples.pixels) == np.array(labels)) > 0.8


def test_walkers_are_recognised_after_300_steps(tmp_path):
    data, out = tmp_path / "gait", tmp_path / "outputs"
    run("microdoppler", "simulate", "--output_dir", data, "--num_users", 5, "--min_cadence_gap", 0.1)
    # 18 steps an epoch.
    words = ["--model", "LightningDiT-N/4", "--max_epochs", 17, "--prediction", "data"]
    drawn = ["--num_samples_per_user", 20, "--num_steps", 30]
    run("microdoppler", "run", "--data_dir", data, "--output_dir", out, *words, *drawn)
    report = tmp_path / "evaluation"
    run("microdoppler", "evaluate", "--data_dir", data, "--generated_dir", out / "generated_images", "--out", report)
    scores = json.loads((report / "evaluation.json").read_text(encoding="utf-8"))
    # Guessing is right once in five times; 0.85 of 40 were right when this was written.
    assert scores["identity_accuracy"] > 0.5
