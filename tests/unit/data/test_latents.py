"""Latents from files: what reaches training, exact resume, and files that do not fit together."""

import json
import pickle

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from jitflow.apps.microdoppler.data import LatentDataModule
from jitflow.apps.microdoppler.latent_file import LatentFile, LatentInfo
from jitflow.errors import ConfigError, DataError, MissingFileError
from jitflow.io.array_file import ArrayFileWriter
from jitflow.training.lightning_counters import ExactResume

INFO = LatentInfo((0.1, -0.2), (1.0, 2.5), "vae_f16d32", "c0ffee" * 8, (32, 48), "f00d")
USERS = (1, 4, 31)


def write(path, labels, *, info=INFO, users=USERS, shape=(2, 2, 3), latents=None, **changes):
    labels = np.asarray(labels)
    arrays = {
        "latents": ((len(labels), *shape), "float32"),
        "labels": (labels.shape, "int64"),
        "user_ids": (labels.shape, "int64"),
    }
    writer = ArrayFileWriter.create(path, arrays)
    rows = np.random.default_rng(len(labels)).normal(size=(len(labels), *shape)) if latents is None else latents
    writer.arrays["latents"][:] = rows
    writer.arrays["labels"][:] = labels
    writer.arrays["user_ids"][:] = changes.get("user_ids", [users[label % len(users)] for label in labels])
    writer.finish(info.to_metadata())


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "train.safetensors", [0] * 5 + [1] * 3 + [2] * 6)
    write(tmp_path / "val.safetensors", [0, 1, 2, 2])
    return tmp_path


def test_batches_are_rows_of_the_file(folder):
    data = LatentDataModule(folder, batch_size=4, seed=3)
    raw = load_file(folder / "train.safetensors")
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    for batch in batches:
        latents, labels = batch
        assert latents.dtype == torch.float32
        assert latents.shape == (4, 2, 2, 3)
        assert torch.equal(latents, raw["latents"][batch.index])
        assert torch.equal(labels, raw["labels"][batch.index])
        latents += 1  # a copy: the file is mapped read-only
    assert len({int(i) for batch in batches for i in batch.index}) == 12
    val = list(data.val_dataloader())
    assert torch.equal(torch.cat([b.images for b in val]), load_file(folder / "val.safetensors")["latents"])
    latent, label = data.dataset_train[6]
    assert torch.equal(latent, raw["latents"][6])
    assert label == 1


def test_order_follows_the_seed_and_the_epoch(folder):
    def order(seed, epoch, **options):
        data = LatentDataModule(folder, batch_size=4, seed=seed, **options)
        loader = data.train_dataloader()
        data.set_epoch(epoch)
        return [batch.index.tolist() for batch in loader]

    first = order(0, 0)
    assert order(0, 0) == first == order(0, 0, num_workers=1)
    assert order(1, 0) != first
    assert order(0, 1) != first


def test_the_data_describe_themselves(folder):
    info = LatentDataModule(str(folder)).get_dataset_info()
    assert info == {
        "num_samples": 14,
        "num_val_samples": 4,
        "batch_size": 32,
        "num_classes": 3,
        "classes": ["user01", "user04", "user31"],
        "img_size": (32, 48),
        "channels": 3,
        "user_ids": [1, 4, 31],
        "latent_shape": (2, 2, 3),
        "mean": [0.1, -0.2],
        "std": [1.0, 2.5],
        "codec": {"id": "vae_f16d32", "checksum": "c0ffee" * 8, "img_size": [32, 48]},
        "linear_codec": None,
        "axes": None,
        "fingerprint": "f00d",
    }


def test_a_linear_codec_beside_the_files_is_named(folder):
    (folder / "linear_codec.safetensors").write_bytes(b"")
    assert LatentDataModule(folder).get_dataset_info()["linear_codec"] is None
    linear = LatentInfo(**{**INFO.__dict__, "codec_id": "linear_f16d32"})
    write(folder / "train.safetensors", [0, 1, 2], info=linear)
    write(folder / "val.safetensors", [0, 1, 2], info=linear)
    info = LatentDataModule(folder).get_dataset_info()
    assert info["linear_codec"] == str(folder / "linear_codec.safetensors")


class Recorder(ExactResume):
    """Learns nothing and remembers which samples it saw."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((batch.epoch, batch.index.tolist(), batch.images.sum().item()))
        return self.weight * batch.images.mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(folder, max_steps, ckpt_path=None):
    module = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=LatentDataModule(folder, batch_size=4, seed=5), ckpt_path=ckpt_path)
    return module, trainer


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*num_workers")
def test_resume_inside_an_epoch_goes_on_with_the_next_batch(folder, tmp_path):
    whole, _ = fit(folder, 8)
    first, trainer = fit(folder, 4)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    second, _ = fit(folder, 8, tmp_path / "x.ckpt")
    assert first.seen + second.seen == whole.seen
    assert [epoch for epoch, _, _ in whole.seen] == [0, 0, 0, 1, 1, 1, 2, 2]


def test_another_process_maps_the_file_by_itself(folder):
    data = LatentDataModule(folder)
    data.setup()
    sent = pickle.dumps(data.dataset_train)
    assert len(sent) < 1000
    assert torch.equal(
        pickle.loads(sent).read_batch(torch.tensor([3, 1]))[0], torch.tensor(data.dataset_train.latents[[3, 1]])
    )


def test_metadata_round_trip():
    metadata = INFO.to_metadata()
    assert all(isinstance(value, str) for value in metadata.values())
    assert LatentInfo.from_metadata(metadata, source="x") == INFO
    for name in ("mean", "std", "codec_id", "codec_checksum", "img_size"):
        with pytest.raises(DataError, match=f"x does not say .*{name}"):
            LatentInfo.from_metadata({k: v for k, v in metadata.items() if k != name}, source="x")
    for change in ({"std": "[1.0, 0.0]"}, {"mean": "[NaN, 1.0]"}, {"std": "[1.0, Infinity]"}):
        with pytest.raises(DataError, match="x has a mean or std that is not finite"):
            LatentInfo.from_metadata({**metadata, **change}, source="x")
    with pytest.raises(DataError, match="x does not say"):
        LatentInfo.from_metadata({**metadata, "img_size": "7"}, source="x")


# ---------------------------------------------------------------------------------------- what can be wrong


def setup_error(folder, error, message, **options):
    with pytest.raises(error, match=message):
        LatentDataModule(folder, **options).setup()


def test_missing_files(folder):
    (folder / "val.safetensors").rename(folder / "val.safetensors.part")
    setup_error(folder, MissingFileError, r"val\.safetensors is not finished")
    (folder / "val.safetensors.part").unlink()
    with pytest.raises(MissingFileError, match=r"latents .*val\.safetensors do not exist"):
        LatentDataModule(folder).prepare_data()


def test_shapes(folder):
    setup_error(folder, DataError, r"shape \(2, 2, 3\); .*\(32, 16, 16\)", latent_shape=(32, 16, 16))
    LatentDataModule(folder, latent_shape=[2, 2, 3]).setup()
    write(folder / "val.safetensors", [0, 1, 2], shape=(2, 4, 3))
    setup_error(folder, DataError, r"\(2, 2, 3\) and val of \(2, 4, 3\)")
    write(folder / "val.safetensors", [0, 1, 2], shape=(3, 2, 3))
    setup_error(folder, DataError, r"3 channels and statistics of 2, 2")
    with pytest.raises(ConfigError, match=r"latent_shape .*got \(2, 3\)"):
        LatentDataModule(folder, latent_shape=(2, 3))


def test_other_arrays(folder):
    good = load_file(folder / "val.safetensors")
    path = folder / "val.safetensors"
    save_file({"latents": good["latents"]}, path)
    setup_error(folder, DataError, r"latents float32 instead of .*labels int64")
    save_file({**good, "latents": good["latents"].half()}, path)
    setup_error(folder, DataError, "holds .*latents float16.* instead of")
    save_file({**good, "labels": good["labels"][:2].clone()}, path)
    setup_error(folder, DataError, r"got \(4, 2, 2, 3\), \(2,\), \(4,\)")
    save_file({**good, "latents": good["latents"].flatten(1)}, path)
    setup_error(folder, DataError, r"latents must be \(N, channels")
    save_file({name: value[:0].clone() for name, value in good.items()}, path, metadata=INFO.to_metadata())
    setup_error(folder, DataError, "holds no latents")
    save_file(good, path)
    setup_error(folder, DataError, "does not say how its latents were made")
    path.write_bytes(path.read_bytes()[:-4])
    setup_error(folder, DataError, "is damaged")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("row", [0, 7, 13])
def test_latents_that_are_not_finite(folder, monkeypatch, value, row):
    monkeypatch.setattr("jitflow.apps.microdoppler.latent_file.BLOCK_BYTES", 4 * 2 * 2 * 3 * 4)
    latents = np.zeros((14, 2, 2, 3))
    latents[row, 1, 0, 2] = value
    write(folder / "train.safetensors", [0] * 5 + [1] * 3 + [2] * 6, latents=latents)
    setup_error(folder, DataError, rf"train\.safetensors: the latents of row {row} hold NaN or infinity")


def test_labels_and_users(folder):
    train, val = folder / "train.safetensors", folder / "val.safetensors"
    write(val, [0, 2, 2])
    setup_error(folder, DataError, r"val\.safetensors .*user 4")
    write(val, [0, 1, 2, 3])
    setup_error(folder, DataError, r"label 3 .*train\.safetensors has 3 users")
    write(val, [0, 1, 2, -1], user_ids=[1, 4, 31, 31])
    setup_error(folder, DataError, r"label -1 is out of range")
    write(val, [0, 1, 2], user_ids=[1, 31, 4])
    setup_error(folder, DataError, "labels stand for other users")
    write(val, [0, 1, 2])
    for labels in ([0, 2, 2], [1, 2, 2], [-1, 0, 1]):
        write(train, labels)
        setup_error(folder, DataError, r"labels must be 0 to .*without a gap")
    for user_ids in ([1, 4, 5, 31], [1, 4, 4, 4], [0, 4, 4, 31]):
        write(train, [0, 1, 1, 2], user_ids=user_ids)
        setup_error(folder, DataError, "numbered from 1; user_ids say")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codec_checksum": "beef" * 16}, "different codecs .vae_f16d32 c0ffeec0ffee .*, vae_f16d32 beefbeefbeef"),
        ({"codec_id": "linear_f16d32"}, "different codecs"),
        ({"img_size": (64, 64)}, "different codecs"),
        ({"mean": (0.0, 0.0)}, "different extractions"),
        ({"fingerprint": "other"}, "different extractions"),
    ],
)
def test_files_that_do_not_belong_together(folder, change, message):
    write(folder / "val.safetensors", [0, 1, 2], info=LatentInfo(**{**INFO.__dict__, **change}))
    setup_error(folder, DataError, message)


def test_metadata_is_plain_json(folder):
    metadata = LatentFile(folder / "train.safetensors").info.to_metadata()
    assert json.loads(metadata["mean"]) == [0.1, -0.2]
    assert json.loads(metadata["img_size"]) == [32, 48]
