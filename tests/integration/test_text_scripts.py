"""The documented scripts of text: train.py and train.sh; and a page that a training memorises."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from pathlib import Path

import pytest
from forked_python import forked_python
from tiny import TEXT_NET, epochs_done, train_text, write_corpus

import jitflow
from jitflow.io.files import load_checkpoint
from jitflow.model import Model

ROOT = Path(__file__).parents[2]
PAGE = """
The harbour lay quiet under a pale morning sky. Two fishing boats had come in before dawn, and their crews were sorting
the catch on the quay: herring in one crate, mackerel in the next, and a single large cod that a boy held up for
everyone to see. Nobody spoke much. Gulls walked between the ropes and waited. Higher up, in the old part of town, the
baker opened her shutters. She counted the loaves twice, wrote the number on a slate, and set the door ajar so that the
warm smell could find its way down the hill. By seven the first customers came: a teacher, a postman with muddy shoes,
and the man who repaired clocks and was never on time himself. At noon the wind turned north. The boats swung round on
their chains, the flags cracked like whips, and rain crossed the bay in a grey curtain. People ran laughing for the
arcade. Only the clock maker stood still, looking up at the tower, where both hands pointed straight at twelve.
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_page_is_memorised_and_sampled_back_word_for_word(tmp_path):
    lines = textwrap.wrap(" ".join(PAGE.split()), 56)
    page = tmp_path / "page.jsonl"
    page.write_text("".join(json.dumps(line) + "\n" for line in lines))
    train_text(
        page,
        tmp_path / "run",
        model="JiT-N/4",
        img_size=24,
        net_settings={"depth": 4, "hidden_size": 128, "num_heads": 4, "bottleneck_dim": 48, "init_std": 0.08},
        tokenizer="bpe:1000",
        pack=False,
        epochs=2500,
        batch_size=len(lines),
        lr=3e-3,
        warmup_epochs=50,
        weight_decay=0.0,
        velocity_weight=0.0,
        infill_prob=0.25,
        prompt_prob=0.8,
        # In strong noise already it has to be known which of the lines it will be.
        P_mean=-2.0,
        P_std=1.5,
        save_interval=10**6,
        val_interval=10**6,
        accelerator="cpu",
    )
    module = jitflow.load(tmp_path / "run" / "checkpoint-last.pth", device="cpu").module
    for i, line in enumerate(lines):
        # Three tokens: a prompt that ends inside one would begin another text.
        prompt = module.tokenizer.decode(module.tokenizer.encode(line)[:3])
        assert Model(module).sample(num=1, prompt=prompt, steps=50, seeds=i).texts == [line]
    written = Model(module).sample(num=64, steps=100).texts
    # From nothing but noise: lines of the page, and most of them.
    assert sum(text in lines for text in written) >= 60
    assert len(set(written) & set(lines)) >= len(lines) // 2


def test_train_py_says_what_it_is():
    words = [forked_python(), "train.py", "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "text as colour" in done.stdout and "jitflow train" in done.stdout
    documented = (
        "resume data_path model img_size epochs lr warmup_epochs batch_size output_dir tokenizer_path save_interval "
        "predict_clean weight_decay use_amp gradient_accumulation_steps max_grad_norm log_interval use_wandb "
        "wandb_project wandb_name wandb_entity"
    )
    for flag in documented.split():
        assert f"--{flag}" in done.stdout, flag


def test_train_sh_runs_and_resumes(tmp_path):
    """The documented script on a small corpus, then the documented resume command."""
    # A checkout, whose .venv the script prefers.
    script, python = tmp_path / "checkout" / "train.sh", tmp_path / "checkout" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(forked_python())
    for name in ("train.sh", "train.py"):
        (tmp_path / "checkout" / name).symlink_to(ROOT / name)
    assert os.access(script, os.X_OK)
    write_corpus(tmp_path / "data" / "train")
    small = {"MODEL": "JiT-N/4", "EPOCHS": "1", "IMG_SIZE": "16", "LR": "1e-3", "SAVE_INTERVAL": "1"}
    environment = {**os.environ, **small, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    options = ["--model.net_settings", json.dumps(TEXT_NET), "--trainer.accelerator", "cpu"]
    done = subprocess.run(
        [script, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run" / "jit_v1"
    assert (run / "best_model.pth").exists() and (run / "checkpoint_epoch_1.pth").exists()
    assert load_checkpoint(run / "checkpoint_epoch_1.pth")["hyper_parameters"]["learning_rate"] == 1e-3
    resume = ["--resume", "./run/jit_v1/checkpoint_epoch_1.pth", "--data_path", "./data/train", "--epochs", "2"]
    command = [forked_python(), str(ROOT / "train.py"), *resume, "--trainer.accelerator", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert epochs_done(run / "checkpoint-last.pth") == 2
    # The first command again: it asks for less, and for that the run is long enough.
    again = subprocess.run(
        [script, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )
    assert again.returncode == 0 and "is finished" in again.stderr
    assert epochs_done(run / "checkpoint-last.pth") == 2
