"""``jitflow sample`` on a checkpoint of every application, trained as its documents say and by a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image

import jitflow
from callbacks import create_default_callbacks
from datas.datamodule import JiTDataModule
from jitflow import cli
from jitflow.apps.microdoppler.gait import SpectrogramSettings, write_dataset
from models.modelmodule import JiTLightningModule

NET = json.dumps({"hidden_size": 32, "depth": 1, "num_heads": 2, "bottleneck_dim": 16})
DIT = json.dumps({"hidden_size": 32, "depth": 1, "num_heads": 2})
PATHS = ("documented", "recipe")


def command(*words):
    assert cli.main([str(word) for word in words]) == 0, words


def error_of(capsys, *words):
    capsys.readouterr()
    assert cli.main([str(word) for word in words]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return line


def pixels_of(path: Path) -> torch.Tensor:
    array = np.array(Image.open(path))
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, number in (("train", 8), ("val", 2)):
        for name in ("cat", "dog"):
            (folder / "data" / split / name).mkdir(parents=True)
            for i in range(number):
                array = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(array).save(folder / "data" / split / name / f"{i}.png")
    model = JiTLightningModule("JiT-N/4", img_size=16, num_classes=2, num_sampling_steps=4, cfg_scale=2.0)
    made = create_default_callbacks(
        save_dir=str(folder / "documented"), enable_fid_eval=False, epochs=1, warmup_epochs=0
    )
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=made, logger=False, enable_progress_bar=False)
    trainer.fit(model, datamodule=JiTDataModule(str(folder / "data"), 16, batch_size=8, num_workers=0))
    command(
        *("train", "--config", "images/digits", "--run_dir", folder / "recipe", "--trainer.max_epochs", 1),
        *("--trainer.limit_train_batches", 2, "--trainer.accelerator", "cpu"),
    )
    return {
        "documented": folder / "documented" / "checkpoint-last.pth",
        "recipe": folder / "recipe" / "checkpoints" / "last.ckpt",
    }


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "text.txt").write_text("".join(f"Line {i} follows line {i - 1}.\n" for i in range(400)))
    command(
        *("text", "train", "--data_path", folder / "text.txt", "--output_dir", folder / "documented"),
        *("--model", "JiT-N/4", "--model.net_settings", NET, "--img_size", 16, "--epochs", 1),
        *("--tokenizer_path", "bytes", "--trainer.accelerator", "cpu"),
    )
    command(
        *("train", "--config", "text/jit_n4_bytes", "--run_dir", folder / "recipe"),
        *("--data.data_path", folder / "text.txt", "--data.img_size", 16, "--model.img_size", 16),
        *("--model.net_settings", NET, "--trainer.max_epochs", 1, "--trainer.limit_train_batches", 2),
        *("--trainer.accelerator", "cpu"),
    )
    return {
        "documented": folder / "documented" / "best_model.pth",
        "recipe": folder / "recipe" / "checkpoints" / "best_model.pth",
    }


@pytest.fixture(scope="module")
def users(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("users")
    small = SpectrogramSettings(height_px=64, width_px=64)
    write_dataset(folder / "gait", num_users=2, images_per_user=6, val_fraction=0.34, settings=small)
    latents = folder / "latents"
    command("microdoppler", "extract", "--data_dir", folder / "gait", "--output_path", latents, "--img_size", 64)
    command(
        *("microdoppler", "train", "--latent_dir", latents, "--output_dir", folder / "documented"),
        *("--model", "LightningDiT-N/4", "--model.net_settings", DIT, "--max_epochs", 1, "--batch_size", 4),
        *("--trainer.accelerator", "cpu", "--precision", "32-true"),
    )
    command(
        *("train", "--config", "microdoppler/n4_5users", "--run_dir", folder / "recipe"),
        *("--data.latent_dir", latents, "--model.num_users", 2, "--model.latent_shape", "[32,4,4]"),
        *("--model.net_settings", DIT, "--data.batch_size", 4, "--trainer.max_epochs", 1),
        *("--trainer.accelerator", "cpu"),
    )
    return {name: folder / name / "checkpoints" / "best.ckpt" for name in PATHS}


@pytest.mark.parametrize("path", PATHS)
def test_images_of_classes(images, path, tmp_path):
    words = ["--labels", "1,0", "--count", 2, "--steps", 2, "--guidance", 1.5, "--churn", 0.5, "--solver", "euler"]
    command("sample", images[path], *words, "--seed", 5, "--out", tmp_path)
    # Those of class folders are known by their names.
    classes = ["cat", "dog"] if path == "documented" else ["class0", "class1"]
    names = [f"{i:06d}_{classes[y]}_seed{5 + i}.png" for i, y in enumerate([1, 1, 0, 0])]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*names, "grid.png", "settings.json"])
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert (settings["guidance"], settings["steps"], settings["churn"], settings["ema"]) == (1.5, 2, 0.5, 1)
    model = jitflow.load(images[path], device="cpu")
    drawn = model.sample([1, 0], num=2, seeds=5, steps=2, guidance=1.5, churn=0.5, solver="euler")
    for name, pixels in zip(names, drawn.pixels, strict=True):
        assert torch.equal(pixels_of(tmp_path / name), pixels)
    assert len(set(model.sample(steps=1).labels)) == model.module.num_classes


def test_classes_by_their_names(images, tmp_path, capsys):
    words = ["sample", images["documented"], "--steps", 1, "--out", tmp_path]
    command(*words, "--labels", "dog,0")
    assert (tmp_path / "000000_dog_seed0.png").exists() and (tmp_path / "000001_cat_seed1.png").exists()
    assert json.loads((tmp_path / "settings.json").read_text())["classes"] == {"0": "cat", "1": "dog"}
    assert "did you mean dog?" in error_of(capsys, *words, "--labels", "dogs")


@pytest.mark.parametrize("path", PATHS)
def test_texts(texts, path, tmp_path, capsys):
    words = ["--prompt", "Line", "--count", 3, "--seed", 7, "--steps", 3, "--churn", 0.5, "--temperature", 0.8]
    for verb, out in ((["sample"], tmp_path / "a"), (["text", "sample"], tmp_path / "b")):
        command(*verb, texts[path], *words, "--out", out)
    shown = capsys.readouterr().out
    assert "seed 8" in shown and "Line" in shown
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == sorted([*(f"{i:06d}_seed{7 + i}.png" for i in range(3)), "grid.png", "samples.json", "samples.txt"])
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    record = json.loads((tmp_path / "a" / "samples.json").read_text())
    drawn = jitflow.load(texts[path], device="cpu").sample(
        prompt="Line", num=3, seeds=7, steps=3, churn=0.5, temperature=0.8
    )
    assert [sample["text"] for sample in record["samples"]] == drawn.texts
    assert record["settings"]["prompt"] == "Line" and record["settings"]["checkpoint"] == str(texts[path])
    assert torch.equal(pixels_of(tmp_path / "a" / "000001_seed8.png"), drawn.pixels[1])


@pytest.mark.parametrize("path", PATHS)
def test_spectrograms_of_users(users, path, tmp_path):
    command("sample", users[path], "--users", "2,1", "--count", 2, "--steps", 2, "--guidance", 2, "--out", tmp_path)
    names = [f"micro_doppler_user{user:02d}_{number:03d}.png" for user in (2, 1) for number in (1, 2)]
    expected = [*names, "micro_doppler_grid.png", "generation.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(expected)
    record = json.loads((tmp_path / "generation.json").read_text())
    assert [(image["file"], image["user"], image["seed"]) for image in record["images"]] == list(
        zip(names, [2, 2, 1, 1], range(4), strict=True)
    )
    model = jitflow.load(users[path], device="cpu")
    drawn = model.sample(users=[2, 1], num=2, steps=2, guidance=2.0)
    for name, pixels in zip(names, drawn.pixels, strict=True):
        assert torch.equal(pixels_of(tmp_path / name), pixels)
    assert drawn.captions == ["user 2", "user 2", "user 1", "user 1"]
    assert torch.equal(model.sample([1, 1, 0, 0], steps=2, guidance=2.0).pixels, drawn.pixels)
    # The simulated data know their axes, and the checkpoint has them from the latents.
    assert drawn.settings["axes"] == {"duration_sec": 2.5, "velocity_min_m_s": -3.0, "velocity_max_m_s": 9.0}
    named = np.asarray(drawn.sheet())
    drawn.settings.pop("axes")
    assert drawn.sheet().size == named.shape[1::-1] and not np.array_equal(np.asarray(drawn.sheet()), named)
    # Fewer pictures: none of before can be taken for one of these, and none is lost.
    command("sample", users[path], "--users", "1", "--steps", 2, "--out", tmp_path)
    beside = tmp_path.with_name(f"{tmp_path.name}-2")
    assert [p.name for p in beside.glob("*user*.png")] == ["micro_doppler_user01_001.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(expected)


def test_a_dry_run_says_what_would_be_drawn(images, texts, users, tmp_path, capsys):
    out = tmp_path / "none"
    for checkpoint, words, said in (
        (images["documented"], ["--labels", "0,1", "--count", 3], "6 images, seeds 4 to 9"),
        (texts["recipe"], ["--count", 5], "5 texts, seeds 4 to 8"),
        (users["recipe"], ["--count", 2], "4 pictures, seeds 4 to 7"),
    ):
        command("sample", checkpoint, *words, "--seed", 4, "--out", out, "--dry_run")
        assert said in capsys.readouterr().err
    assert not out.exists()


def test_words_that_an_application_does_not_know(images, texts, users, tmp_path, capsys):
    out = ["--out", tmp_path / "none"]
    assert "'users' means nothing to a model of images" in error_of(
        capsys, "sample", images["recipe"], "--users", 1, *out
    )
    assert "'labels' means nothing to a model of text" in error_of(
        capsys, "sample", texts["recipe"], "--labels", 1, *out
    )
    assert "'prompt' means nothing" in error_of(capsys, "sample", users["recipe"], "--prompt", "a", *out)
    assert "no user 3" in error_of(capsys, "sample", users["recipe"], "--users", "1-3", *out)
    assert "null label" in error_of(capsys, "sample", texts["recipe"], "--guidance", 2, *out)
    assert "temperature" in error_of(capsys, "sample", images["recipe"], "--temperature", 0.5, *out)
    assert "no latents" in error_of(capsys, "sample", images["recipe"], "--vavae_path", "vae.pt", *out)
    assert "no model of text" in error_of(capsys, "text", "sample", images["recipe"], *out)
    assert "--count" in error_of(capsys, "sample", texts["recipe"], "--count", 0, *out)
    assert not (tmp_path / "none").exists()
