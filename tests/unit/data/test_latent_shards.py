"""Shards of latents as LightningDiT's feature extraction writes them, in and out."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from jitflow.apps.microdoppler.data import LatentDataModule
from jitflow.apps.microdoppler.latent_file import LatentInfo
from jitflow.apps.microdoppler.latent_shards import JoinedRows, write_shards
from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.errors import ConfigError, DataError, MissingFileError
from jitflow.io.array_file import ArrayFileWriter
from jitflow.run.fit import fit

NET = {"depth": 1, "hidden_size": 16, "num_heads": 2, "patch_size": 1}


def write_shard(path, of, *, seed=0, **changed):
    path.parent.mkdir(parents=True, exist_ok=True)
    z = torch.randn(len(of), 4, 2, 3, generator=torch.Generator().manual_seed(seed)) * 2 + 0.5
    arrays = {"latents": z, "latents_flip": z.flip(-1).contiguous(), "labels": torch.tensor(of), **changed}
    save_file(arrays, path, metadata={"total_size": str(len(of)), "dtype": "torch.float32", "device": "cpu"})
    return z


@pytest.fixture
def shards(tmp_path):
    first = write_shard(tmp_path / "lat" / "latents_rank00_shard000.safetensors", [0, 1, 2] * 4)
    second = write_shard(tmp_path / "lat" / "latents_rank00_shard001.safetensors", [2, 1] * 3, seed=1)
    return tmp_path / "lat", torch.cat([first, second]), torch.tensor([0, 1, 2] * 4 + [2, 1] * 3)


def test_shards_are_joined_and_labels_name_the_users(shards, caplog):
    folder, latents, labels = shards
    caplog.set_level("INFO")
    data = LatentDataModule(folder, batch_size=4)
    data.prepare_data()
    data.setup()
    info = data.get_dataset_info()
    assert info["user_ids"] == [1, 2, 3] and info["latent_shape"] == (4, 2, 3) and info["img_size"] == (32, 48)
    assert info["num_samples"] + info["num_val_samples"] == 18 and info["num_val_samples"] == 3
    rows = [*range(len(data.dataset_train))]
    read, said = data.dataset_train.read_batch(torch.tensor(rows))
    held, held_labels = data.dataset_val.read_batch(torch.tensor([0, 1, 2]))
    assert sorted(held_labels.tolist()) == [0, 1, 2]
    together = {tuple(row.flatten().tolist()): int(label) for row, label in zip(read, said, strict=True)}
    together |= {tuple(row.flatten().tolist()): int(label) for row, label in zip(held, held_labels, strict=True)}
    assert together == {tuple(z.flatten().tolist()): int(label) for z, label in zip(latents, labels, strict=True)}
    np.testing.assert_allclose(info["mean"], latents.mean(dim=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(info["std"], latents.std(dim=(0, 2, 3)), rtol=1e-5)
    assert sum("latents_flip" in record.message for record in caplog.records) == 1
    again = pickle.loads(pickle.dumps(data.dataset_train))
    assert torch.equal(
        again.read_batch(torch.tensor([5, 0]))[0], data.dataset_train.read_batch(torch.tensor([5, 0]))[0]
    )
    assert torch.equal(again[3][0], read[3])


@pytest.mark.parametrize("place", ["train", "."])
@pytest.mark.parametrize("name", ["val", "validation"])
def test_a_validation_part_beside_them_is_used(tmp_path, place, name):
    write_shard(tmp_path / "lat" / "train" / "a.safetensors", [0, 1, 1])
    write_shard(tmp_path / "lat" / name / "a.safetensors", [1, 1, 1, 1], seed=3)
    data = LatentDataModule(tmp_path / "lat" / place if place == "train" else tmp_path / "lat", batch_size=2)
    info = data.get_dataset_info()
    assert (info["num_samples"], info["num_val_samples"]) == (3, 4)


def test_statistics_beside_the_shards_win(shards):
    folder, *_ = shards
    torch.save({"mean": torch.ones(1, 4, 1, 1), "std": torch.full((1, 4, 1, 1), 3.0)}, folder / "latents_stats.pt")
    info = LatentDataModule(folder, batch_size=2).get_dataset_info()
    assert info["mean"] == [1.0] * 4 and info["std"] == [3.0] * 4
    torch.save({"mean": torch.ones(3), "std": torch.ones(3)}, folder / "latents_stats.pt")
    with pytest.raises(DataError, match=r"latents_stats\.pt"):
        LatentDataModule(folder, batch_size=2).setup()


def test_one_shard_called_train_is_one_of_theirs(tmp_path):
    write_shard(tmp_path / "train.safetensors", [0, 1, 0, 1])
    assert LatentDataModule(tmp_path, batch_size=2).get_dataset_info()["user_ids"] == [1, 2]


@pytest.mark.parametrize(
    "changed",
    [
        {"labels": torch.tensor([0, 1, -1])},
        {"labels": torch.tensor([0.0, 1.0, 1.0])},
        {"labels": torch.tensor([0, 2, 2])},
        {"labels": torch.tensor([0, 1])},
        {"latents": torch.zeros(3, 4, 6)},
        {"latents": torch.zeros(3, 4, 2, 3, dtype=torch.int32)},
        {"latents": torch.zeros(3, 4, 2, 3)},
        {"latents": torch.full((3, 4, 2, 3), float("nan"))},
    ],
    ids=["negative", "float labels", "gap", "too few labels", "shape", "type", "constant", "nan"],
)
def test_shards_that_cannot_be_meant(tmp_path, changed):
    write_shard(tmp_path / "a.safetensors", [0, 1, 1], **changed)
    with pytest.raises(DataError):
        LatentDataModule(tmp_path, batch_size=2).setup()


def test_a_folder_without_latents_is_missing(tmp_path):
    save_file({"w": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(MissingFileError, match="train"):
        LatentDataModule(tmp_path, batch_size=2).prepare_data()


def test_stage_1_written_as_shards_comes_back(tmp_path):
    arrays = {"latents": ((5, 2, 2, 3), "float32"), "labels": ((5,), "int64"), "user_ids": ((5,), "int64")}
    writer = ArrayFileWriter.create(tmp_path / "own" / "train.safetensors", arrays)
    writer.arrays["latents"][:] = np.random.default_rng(0).normal(size=(5, 2, 2, 3))
    writer.arrays["labels"][:] = [0, 1, 0, 1, 1]
    writer.arrays["user_ids"][:] = [1, 2, 1, 2, 2]
    writer.finish(LatentInfo((0.1, -0.2), (1.0, 2.5), "vae", "c0ffee", (32, 48), "f").to_metadata())
    files = write_shards(tmp_path / "own", tmp_path / "out", rows_per_shard=2)
    assert [len(load_file(file)["labels"]) for file in files] == [2, 2, 1]
    # What the release's dataset does: every file of this kind in the folder, joined, and the statistics.
    assert sorted((tmp_path / "out").glob("*.safetensors")) == files
    joined = [load_file(file) for file in files]
    whole = load_file(tmp_path / "own" / "train.safetensors")
    for name in ("latents", "latents_flip"):
        assert torch.equal(torch.cat([part[name] for part in joined]), whole["latents"])
    assert torch.equal(torch.cat([part["labels"] for part in joined]), whole["labels"])
    assert torch.load(tmp_path / "out" / "latents_stats.pt")["std"].shape == (1, 2, 1, 1)
    assert LatentDataModule(tmp_path / "out", batch_size=2).get_dataset_info()["mean"] == pytest.approx([0.1, -0.2])
    with pytest.raises(ConfigError, match="out"):
        write_shards(tmp_path / "own", tmp_path / "out")


def test_rows_of_several_arrays():
    parts = [np.arange(6.0).reshape(3, 2), np.arange(6.0, 10.0).reshape(2, 2)]
    rows = JoinedRows(parts, np.array([4, 0, 2, 3]))
    whole = np.concatenate(parts)[[4, 0, 2, 3]]
    assert rows.shape == (4, 2) and rows.size == 8 and len(rows) == 4
    for index in (slice(0, 3), slice(None), np.array([3, 0, 0]), 1, slice(2, 2)):
        np.testing.assert_array_equal(rows[index], whole[index])


def test_a_training_reads_them(shards, tmp_path):
    folder, *_ = shards
    path = f"{UserConditionedDiT.__module__}.{UserConditionedDiT.__qualname__}"
    recipe = {
        "model": {
            "class_path": path,
            "init_args": {"num_users": None, "latent_shape": None, "model_name": "LightningDiT", "net_settings": NET},
        },
        "data": {
            "class_path": "jitflow.apps.microdoppler.data.LatentDataModule",
            "init_args": {"latent_dir": str(folder), "batch_size": 5},
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
    }
    run = fit(recipe, tmp_path / "run")
    assert run.state == "finished"
