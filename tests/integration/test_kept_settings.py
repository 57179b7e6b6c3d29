"""Settings that a run keeps unless told otherwise, and logs that reach as far as its checkpoints."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
from tiny import train_text, write_corpus

from jitflow.callbacks import JiTModelCheckpoint
from jitflow.errors import ConfigError
from jitflow.run.curves import read_curves

SMALL = {"model": "JiT-N/4", "img_size": 16, "batch_size": 32, "lr": 1e-3, "warmup_epochs": 0, "accelerator": "cpu"}
SETTINGS = {"model.net_settings": {"depth": 1, "hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8}}


def milestones(folder):
    return sorted(path.name for path in folder.rglob("checkpoint_epoch_*.pth"))


def test_a_resumed_text_training_keeps_its_save_interval(tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    train_text(corpus, tmp_path / "out", epochs=2, save_interval=1, settings=SETTINGS, **SMALL)
    train_text(None, resume=tmp_path / "out", epochs=4)
    assert milestones(tmp_path / "out") == [f"checkpoint_epoch_{n}.pth" for n in (1, 2, 3, 4)]


def test_the_same_command_with_less_said_names_what_is_other_now(tmp_path, caplog):
    caplog.set_level("INFO")
    corpus = write_corpus(tmp_path / "corpus")
    train_text(corpus, tmp_path / "out", epochs=1, save_interval=1, settings=SETTINGS, **SMALL)
    caplog.clear()
    train_text(corpus, tmp_path / "out", epochs=2, settings=SETTINGS, **SMALL)
    assert "save_milestone_freq 1 (now 10)" in caplog.text


def test_no_milestones_at_all(tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    train_text(corpus, tmp_path / "out", epochs=2, settings={**SETTINGS, "checkpoint.save_milestone_freq": 0}, **SMALL)
    assert milestones(tmp_path / "out") == []
    with pytest.raises(ConfigError, match="save_milestone_freq"):
        JiTModelCheckpoint(tmp_path, save_milestone_freq=-1)


def test_logs_reach_as_far_as_the_checkpoint(tmp_path):
    read = {}

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            # Two steps after the save of step 4 nothing else has flushed the log.
            if trainer.global_step == 6:
                read.update(read_curves(tmp_path / "out"))

    corpus = write_corpus(tmp_path / "corpus")
    settings = {**SETTINGS, "checkpoint.save_last_every_n_steps": 4, "trainer.log_every_n_steps": 1}
    words = {**SMALL, "batch_size": 4}
    train_text(corpus, tmp_path / "out", epochs=1, settings=settings, callbacks=[Look()], **words)
    steps = [point[0] for point in read["train/loss"]]
    assert max(steps) >= 4 and len(steps) >= 4
