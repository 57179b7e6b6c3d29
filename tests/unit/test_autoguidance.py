"""Autoguidance: a smaller or younger checkpoint in place of the prediction without a class."""

import pytest
import torch

from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks.ema import EMACallback
from jitflow.cli import main
from jitflow.errors import ConfigError
from jitflow.model import load

SMALL = {"hidden_size": 16, "num_heads": 2, "bottleneck_dim": 8, "in_context_start": 0}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Checkpoints of two depths, and of another number of classes."""
    import lightning.pytorch as pl
    from torch.utils.data import DataLoader, TensorDataset

    folder = tmp_path_factory.mktemp("models")
    images = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(images, torch.arange(8) % 3), batch_size=8)
    for name, depth, classes, drop in (("strong", 2, 3, 0.0), ("weak", 1, 3, 0.0), ("other", 1, 4, 0.1)):
        torch.manual_seed(depth)
        net = {**SMALL, "depth": depth}
        module = JiTLightningModule("JiT-N/4", 8, classes, in_channels=1, net_settings=net, label_drop_prob=drop)
        with torch.no_grad():
            for p in module.parameters():
                p.add_(0.1 * torch.randn_like(p))
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = pl.Trainer(
            max_steps=1, accelerator="cpu", enable_model_summary=False, callbacks=[EMACallback()], **quiet
        )
        trainer.fit(module, loader)
        trainer.save_checkpoint(folder / f"{name}.ckpt")
    return folder


def test_an_euler_step_is_guided_away_from_the_weaker_model(files):
    strong, weak = (load(files / f"{name}.ckpt", device="cpu") for name in ("strong", "weak"))
    labels = torch.tensor([0, 2])
    states = []
    with strong.module.watch_sampling(lambda done, total, t, x: states.append(x)):
        drawn = strong.sample(
            labels, seeds=[3, 4], steps=4, solver="euler", guidance=2.5, autoguide=files / "weak.ckpt"
        )
    assert drawn.settings["autoguide"] == str(files / "weak.ckpt")
    with torch.no_grad(), strong.module.ema_weights(), weak.module.ema_weights():
        # The second step, by hand.
        x, t = states[0], torch.full((2,), 0.25)
        v_strong, v_weak = (m.module.plain_velocity(x, t, labels) for m in (strong, weak))
    torch.testing.assert_close(states[1], x + 0.25 * (v_weak + 2.5 * (v_strong - v_weak)), atol=1e-5, rtol=1e-5)
    assert not torch.equal(v_strong, v_weak)
    # Guidance 1 does not ask the weaker model, and a model never trained without labels is guided all the same.
    plain = [
        strong.sample(labels, seeds=3, steps=2, guidance=1.0, **more).pixels
        for more in ({}, {"autoguide": files / "weak.ckpt"})
    ]
    assert torch.equal(*plain)
    with pytest.raises(ConfigError, match="null label"):
        strong.sample(labels, steps=2, guidance=2.0)


def test_a_model_of_other_classes_is_refused(files):
    with pytest.raises(ConfigError, match=r"autoguide .*num_classes"):
        load(files / "strong.ckpt", device="cpu").sample([0], autoguide=files / "other.ckpt")


def test_the_command_takes_a_checkpoint(files, tmp_path):
    words = ["sample", files / "strong.ckpt", "--labels", 1, "--steps", 2, "--guidance", 2, "--device", "cpu"]
    assert main([*map(str, words), "--autoguide", str(files / "weak.ckpt"), "--out", str(tmp_path / "a")]) == 0
    assert main([*map(str, words), "--autoguide", str(files / "none.ckpt"), "--out", str(tmp_path / "b")]) == 1
    assert not (tmp_path / "b").exists()
