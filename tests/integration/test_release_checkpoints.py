"""In from the JiT release and out again, without losing a weight."""

from __future__ import annotations

import argparse
import pickle
import shutil
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml
from interruption import Interruption, power_cut
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch.utils.data import DataLoader, TensorDataset

import jitflow
from jitflow import cli
from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks import EMACallback, JiTModelCheckpoint, LearningRateSchedulerCallback
from jitflow.checkpoint.convert import convert, resumable
from jitflow.checkpoint.find import find_checkpoint
from jitflow.checkpoint.formats import read_state
from jitflow.checkpoint.jit_release import optimizer_names
from jitflow.checkpoint.load import init_from, load_module
from jitflow.errors import CheckpointError, ConfigError, MissingFileError
from jitflow.io.files import load_checkpoint
from jitflow.run.describe import describe_run
from jitflow.run.recipe import copy_nested

REFERENCE = Path(__file__).parents[1] / "reference"
RELEASE = REFERENCE / "jit_tiny_checkpoint-last.pth"


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, argparse.Namespace):
        return same(vars(a), vars(b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_the_release_file_loads_with_its_settings_read_from_the_shapes():
    module = load_module(RELEASE)
    assert (module.num_classes, module.img_size, module.cfg_scale) == (10, 32, 2.9)
    assert module.cfg_interval == (0.1, 1.0) and module.num_sampling_steps == 8
    golden = safe_open(REFERENCE / "jit_tiny.safetensors", "pt")
    weights = dict(module.named_parameters())
    for key in golden.keys():  # noqa: SIM118
        if key.startswith("train/after3/"):
            assert torch.equal(weights[key.removeprefix("train/after3/")], golden.get_tensor(key)), key
        if key.startswith("train/ema1_after3/"):
            assert torch.equal(module.ema_params1[key.removeprefix("train/ema1_after3/")], golden.get_tensor(key)), key
        if key.startswith("train/ema2_after3/"):
            assert torch.equal(module.ema_params2[key.removeprefix("train/ema2_after3/")], golden.get_tensor(key)), key


def test_each_average_gives_its_own_samples():
    model = jitflow.load(RELEASE, device="cpu")
    drawn = []
    for ema in (0, 1, 2):
        captured = []
        with model.module.watch_sampling(lambda done, n, t, x, kept=captured: kept.append(x)):
            # The samples differ by less than a grey level after three steps, so the states are compared.
            from jitflow.core.seeding import use_seeds

            with use_seeds([3, 4]):
                if ema:
                    with model.module.ema_weights(ema):
                        captured.append(model.module.generate(torch.tensor([1, 2]), use_ema=False))
                else:
                    captured.append(model.module.generate(torch.tensor([1, 2]), use_ema=False))
        drawn.append(captured[-1])
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


def test_conversions_there_and_back_are_bit_equal(tmp_path):
    original = load_checkpoint(RELEASE)
    convert(RELEASE, tmp_path / "a.ckpt")
    convert(tmp_path / "a.ckpt", tmp_path / "b.pth")
    back = load_checkpoint(tmp_path / "b.pth")
    assert same(original, {key: back[key] for key in original})
    convert(RELEASE, tmp_path / "a.safetensors", ema="all")
    convert(tmp_path / "a.safetensors", tmp_path / "c.pth")
    back = load_checkpoint(tmp_path / "c.pth")
    for key in ("model", "model_ema1", "model_ema2", "epoch"):
        assert same(original[key], back[key]), key


@pytest.mark.parametrize(("ema", "key"), [(0, "model"), (1, "model_ema1"), (2, "model_ema2")])
def test_safetensors_holds_the_chosen_weights_and_the_settings(tmp_path, ema, key):
    convert(RELEASE, tmp_path / "w.safetensors", ema=ema)
    original = load_checkpoint(RELEASE)[key]
    assert same({f"net.{k}": v for k, v in load_file(tmp_path / "w.safetensors").items()}, dict(original))
    module = jitflow.load(tmp_path / "w.safetensors", device="cpu").module
    assert [bool(module.ema_params1), bool(module.ema_params2)] == [ema == 1, ema == 2]
    assert module.cfg_scale == 2.9 and module.cfg_interval == (0.1, 1.0)
    assert all(torch.equal(p, original[n]) for n, p in module.named_parameters())


@pytest.mark.parametrize("suffix", [".ckpt", ".pth", ".safetensors"])
def test_load_from_checkpoint_takes_every_format(tmp_path, suffix):
    convert(RELEASE, tmp_path / f"m{suffix}", ema="all")

    class Mine(JiTLightningModule):
        pass

    module = Mine.load_from_checkpoint(tmp_path / f"m{suffix}", cfg_scale=1.5)
    assert isinstance(module, Mine) and module.cfg_scale == 1.5 and module.training
    assert same(dict(module.ema_params2), dict(load_checkpoint(RELEASE)["model_ema2"]))
    with pytest.raises(ConfigError, match="init_from"):
        Mine.load_from_checkpoint(tmp_path / f"m{suffix}", strict=False)


def test_settings_the_release_has_no_name_for_survive_its_format(tmp_path):
    settings = {"prediction": "velocity", "time_shift": 3.0, "net_settings": {"in_context_start": 3}, "in_channels": 1}
    module = JiTLightningModule("JiT-N/4", 16, 10, **settings)
    run = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    run.strategy.connect(module)
    run.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    convert(tmp_path / "a.ckpt", tmp_path / "b.pth")
    back = load_module(tmp_path / "b.pth")
    assert (back.prediction, back.time_shift, back.net.in_context_start) == ("velocity", 3.0, 3)


def test_convert_never_overwrites_by_itself(tmp_path):
    convert(RELEASE, tmp_path / "a.ckpt")
    (tmp_path / "link.ckpt").symlink_to("a.ckpt")
    for target in ("a.ckpt", "link.ckpt"):
        with pytest.raises(ConfigError, match="source itself"):
            convert(tmp_path / "a.ckpt", tmp_path / target, overwrite=True)
    with pytest.raises(ConfigError, match="--overwrite"):
        convert(RELEASE, tmp_path / "a.ckpt")
    convert(RELEASE, tmp_path / "a.ckpt", overwrite=True)


def test_a_subclass_is_loaded_when_named_and_missed_with_a_warning_when_not(tmp_path, caplog):
    class Mine(JiTLightningModule):
        pass

    module = Mine("JiT-N/4", 32, 10)
    trainer(tmp_path, 1).fit(module, data())
    assert isinstance(jitflow.load(tmp_path / "last.ckpt", device="cpu", module_class=Mine).module, Mine)
    assert "trained as" not in caplog.text
    jitflow.load(tmp_path / "last.ckpt", device="cpu")
    assert "trained as" in caplog.text and "module_class" in caplog.text


def data() -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(8)), batch_size=4)


def trainer(folder: Path, epochs: int, *callbacks: pl.Callback) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[EMACallback(), JiTModelCheckpoint(folder, save_last_freq=1), *callbacks],
    )


def test_a_release_run_goes_on_where_it_stopped(tmp_path):
    state = read_state(RELEASE)
    module = JiTLightningModule(**state.settings)
    seen = []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append((trainer.current_epoch, batch_idx, trainer.global_step))
            if len(seen) > 1:
                return
            optimizer, weights = trainer.optimizers[0], dict(module.named_parameters())
            trained = [p for group in optimizer.param_groups for p in group["params"]]
            for place, name in enumerate(optimizer_names(module.state_dict())):
                assert trained[place] is weights[name]
                assert torch.equal(
                    optimizer.state[weights[name]]["exp_avg"], state.optimizer["state"][place]["exp_avg"]
                )
                assert torch.equal(weights[name], state.weights[name])
                assert torch.equal(module.ema_params1[name], state.ema1[name])
            assert {group["lr"] for group in optimizer.param_groups} == {1e-3}

    schedule = LearningRateSchedulerCallback(warmup_epochs=5, epochs=20)
    run = trainer(tmp_path, 10, schedule, Look())
    run.fit(module, data(), ckpt_path=resumable(RELEASE, module, tmp_path / "converted"))
    assert seen == [(8, 0, 3), (8, 1, 4), (9, 0, 5), (9, 1, 6)]
    # And out again: the file we saved is one that the release reads, counted in its way.
    saved = load_checkpoint(tmp_path / "checkpoint-last.pth")
    assert saved["epoch"] == 9
    assert {"model", "optimizer", "epoch", "args", "model_ema1", "model_ema2"} <= saved.keys()
    assert saved["model"].keys() == load_checkpoint(RELEASE)["model"].keys()
    assert saved["args"]["class_num"] == 10


@pytest.fixture
def release_run(tmp_path, monkeypatch) -> list[str]:
    """Words that go on with a copy of the release's file, in a folder that holds nothing else."""
    monkeypatch.chdir(tmp_path)
    for i in range(8):
        path = Path("data/train") / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (30 * i, 0, 0)).save(path)
    Path("theirs/checkpoints").mkdir(parents=True)
    shutil.copy(RELEASE, "theirs/checkpoints/checkpoint-last.pth")
    settings = dict(read_state(RELEASE).settings)
    assert settings.pop("learning_rate") == 1e-3
    recipe = {
        "model": {"class_path": "jitflow.apps.images.module.JiTLightningModule", "init_args": settings},
        "data": {
            "class_path": "jitflow.apps.images.data.JiTDataModule",
            "init_args": {"data_path": "data", "img_size": 32, "batch_size": 4, "num_workers": 0},
        },
        "trainer": {"max_epochs": 10, "accelerator": "cpu", "enable_progress_bar": False},
        "logging": {"tensorboard": None},
    }
    Path("mine.yaml").write_text(yaml.safe_dump(copy_nested(recipe)))
    return ["train", "--config", "mine.yaml", "--resume", "theirs/checkpoints/checkpoint-last.pth"]


def test_train_goes_on_with_a_release_run_in_a_folder_of_its_own(release_run, capsys):
    before = RELEASE.read_bytes()
    assert cli.main([*release_run, "--model.learning_rate", "1e-3"]) == 0
    assert [path.name for path in Path("theirs").rglob("*")] == ["checkpoints", "checkpoint-last.pth"]
    assert Path("theirs/checkpoints/checkpoint-last.pth").read_bytes() == before
    # Epoch 7 was its last one, with three steps done.
    run = describe_run("runs/mine")
    assert (run.state, run.epochs, run.steps) == ("finished", 10, 3 + 2 * 2)
    assert not Path("runs/mine/converted").exists()
    # Without another word, in the folder where it lies now.
    assert cli.main(["train", "--resume", "runs/mine", "--trainer.max_epochs", "11"]) == 0
    assert describe_run("runs/mine").epochs == 11


def test_a_release_run_keeps_its_learning_rate(release_run, capsys):
    assert cli.main([*release_run, "--model.learning_rate", "1e-5"]) == 1
    assert "model.learning_rate 0.001 (now 1e-05)" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_the_same_words_go_on_after_an_interruption_of_a_release_run(release_run, monkeypatch):
    """What it was converted to is no checkpoint of its own, and no other run."""
    words = [*release_run, "--model.learning_rate", "1e-3"]
    with monkeypatch.context() as patch:
        patch.setattr(pl.Trainer, "fit", lambda *args, **kwargs: power_cut())
        with pytest.raises(Interruption):
            cli.main(words)
    assert cli.main(words) == 0
    assert describe_run("runs/mine").epochs == 10


def test_the_release_entries_share_storage_with_lightnings(tmp_path):
    module = JiTLightningModule("JiT-N/4", 32, 10)
    trainer(tmp_path, 1).fit(module, data())
    size = (tmp_path / "checkpoint-last.pth").stat().st_size
    numbers = sum(p.numel() for p in module.parameters())
    # Weights, two averages, two moments: five times the weights.
    assert size < 5.3 * 4 * numbers


def test_fine_tuning_on_other_classes_keeps_everything_but_the_label_table(tmp_path):
    settings = {**read_state(RELEASE).settings, "num_classes": 4}
    module = JiTLightningModule(**settings)
    table = module.net.y_embedder.embedding_table.weight.clone()
    said = init_from(module, RELEASE)
    assert "except the label table (10 classes there, 4 here)" in said and "EMA 1" in said
    original = load_checkpoint(RELEASE)["model_ema1"]
    for name, value in module.state_dict().items():
        assert torch.equal(value, table if "embedding_table" in name else original[name]), name
    assert not module.ema_params1
    with pytest.raises(CheckpointError, match="of another shape"):
        init_from(
            JiTLightningModule(**{**settings, "net_settings": {**settings["net_settings"], "bottleneck_dim": 4}}),
            RELEASE,
        )


def test_a_folder_means_its_newest_complete_checkpoint(tmp_path, caplog):
    with pytest.raises(MissingFileError, match="no such file or folder"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(MissingFileError, match="no complete checkpoint"):
        find_checkpoint(tmp_path)
    convert(RELEASE, tmp_path / "checkpoints" / "checkpoint-3.pth")
    whole = (tmp_path / "checkpoints" / "checkpoint-3.pth").read_bytes()
    (tmp_path / "checkpoints" / "checkpoint-last.pth").write_bytes(whole[: len(whole) // 2])
    assert find_checkpoint(tmp_path).name == "checkpoint-3.pth"
    assert "checkpoint-last.pth is damaged" in caplog.text


def test_what_cannot_be_resumed_says_so(tmp_path):
    convert(RELEASE, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="--init_from"):
        resumable(tmp_path / "w.safetensors", load_module(RELEASE), tmp_path)
    with pytest.raises(CheckpointError, match="do not fit the model"):
        resumable(RELEASE, JiTLightningModule("JiT-N/4", 32, 10), tmp_path)


class Foreign:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize("kind", ["truncated", "foreign pickle", "raw pickle", "text", "no checkpoint"])
def test_files_that_are_no_checkpoints_are_refused_in_one_line(tmp_path, capsys, kind):
    path = tmp_path / "bad.pth"
    if kind == "truncated":
        path.write_bytes(RELEASE.read_bytes()[:200_000])
    elif kind == "foreign pickle":
        torch.save({"model": Foreign()}, path)
    elif kind == "raw pickle":
        path.write_bytes(pickle.dumps({"model": Foreign()}))
    elif kind == "text":
        path.write_text("hello")
    else:
        torch.save({"weights": torch.zeros(3)}, path)
    assert cli.main(["convert", str(path), str(tmp_path / "out.ckpt")]) == 1
    text = capsys.readouterr()
    assert "code ran" not in text.out
    assert text.err.count("\n") == 1 and text.err.startswith("error:") and "bad.pth" in text.err, text.err
    assert not (tmp_path / "out.ckpt").exists()


def test_convert_and_sample_from_the_command_line(tmp_path, capsys):
    assert cli.main(["convert", str(RELEASE), str(tmp_path / "m.safetensors"), "--ema", "2"]) == 0
    words = [
        "sample",
        str(tmp_path / "m.safetensors"),
        "--labels",
        "0-1",
        "--steps",
        "2",
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.main(words) == 0
    assert len(list((tmp_path / "out").glob("*_class*_seed*.png"))) == 2
    assert cli.main(["convert", str(RELEASE), str(tmp_path / "m.bin")]) == 1
    assert ".safetensors" in capsys.readouterr().err
