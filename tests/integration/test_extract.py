"""Stage 1 from a user's chair: latents, statistics, interruptions, processes, and a second run."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forked_python import forked_python
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from striped_data import SIDE, TRAIN, USERS, VAL, make_data, pixels_of, same_files

from jitflow.apps.microdoppler import extract as pipeline
from jitflow.apps.microdoppler.data import LatentDataModule
from jitflow.apps.microdoppler.extract import extract
from jitflow.apps.microdoppler.latent_statistics import channel_statistics
from jitflow.codec.latent import LatentCodec, load_image_codec
from jitflow.codec.linear import LinearCodec, psnr
from jitflow.codec.vae import VAECodec
from jitflow.core.seeding import mix_seeds, noise_from_seeds
from jitflow.errors import ConfigError, DataError, MissingFileError
from jitflow.io.array_file import ArrayFileWriter
from jitflow.nets.autoencoder_kl import AutoencoderKL

ROOT = Path(__file__).parents[2]
RESULTS = {
    "train.safetensors",
    "val.safetensors",
    "latents_stats.pt",
    "linear_codec.safetensors",
    "reconstruction.png",
    "extraction.json",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def vae_file(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    vae = AutoencoderKL(embed_dim=4, ch=32, ch_mult=[1, 2], resolution=16, num_res_blocks=1, attn_resolutions=[8])
    path = tmp_path_factory.mktemp("vae") / "tiny.safetensors"
    VAECodec(vae, img_size=SIDE).export(path)
    return path


@pytest.fixture(scope="module")
def done(data, tmp_path_factory) -> Path:
    return extract(data, tmp_path_factory.mktemp("done") / "latents", img_size=SIDE, batch_size=4, device="cpu")


@pytest.fixture(scope="module")
def done_vae(data, vae_file, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("done_vae") / "latents"
    return extract(data, out, vavae_path=vae_file, img_size=SIDE, batch_size=4, device="cpu")


# ---------------------------------------------------------------------------------------------- the result


def test_files_hold_what_they_promise(data, done):
    assert {path.name for path in done.iterdir()} == RESULTS
    codec = LinearCodec.from_file(done / "linear_codec.safetensors")
    assert codec.shape == (32, 2, 2)
    for split, count in (("train", TRAIN), ("val", VAL)):
        held = load_file(done / f"{split}.safetensors")
        assert held["latents"].dtype == torch.float32
        torch.testing.assert_close(held["latents"], codec.encode(pixels_of(data, split)), rtol=0, atol=1e-4)
        assert held["labels"].tolist() == [0] * count + [1] * count + [2] * count
        assert held["user_ids"].tolist() == [1] * count + [2] * count + [5] * count
        assert held["labels"].dtype == held["user_ids"].dtype == torch.int64
    refitted = LinearCodec.fit(pixels_of(data, "train").split(7))
    assert refitted.checksum == codec.checksum


def test_statistics_are_those_of_the_training_latents(done):
    latents = load_file(done / "train.safetensors")["latents"].double()
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3), unbiased=True)
    for split in ("train", "val"):
        with safe_open(done / f"{split}.safetensors", "pt") as file:
            metadata = file.metadata()
        assert json.loads(metadata["mean"]) == pytest.approx(mean.tolist(), abs=1e-12)
        assert json.loads(metadata["std"]) == pytest.approx(std.tolist())
        assert metadata["codec_id"] == "linear_f16d32"
        assert metadata["codec_checksum"] == LinearCodec.from_file(done / "linear_codec.safetensors").checksum
        assert json.loads(metadata["img_size"]) == [SIDE, SIDE]
    statistics = torch.load(done / "latents_stats.pt", weights_only=True)
    assert statistics.keys() == {"mean", "std"}
    assert statistics["mean"].shape == statistics["std"].shape == (1, 32, 1, 1)
    torch.testing.assert_close(statistics["std"].flatten(), std.float())


def test_the_report_is_honest(data, done):
    report = json.loads((done / "extraction.json").read_text())
    codec = LinearCodec.from_file(done / "linear_codec.safetensors")
    images = pixels_of(data, "val")
    expected = psnr(images, codec.decode(codec.encode(images)))
    assert report["psnr"]["num_images"] == VAL * len(USERS)
    assert report["psnr"]["mean_db"] == pytest.approx(expected.mean_db, abs=0.01)
    assert report["psnr"]["pooled_db"] == pytest.approx(expected.pooled_db, abs=0.01)
    assert report["user_ids"] == list(USERS)
    assert (report["num_train"], report["num_val"]) == (27, 12)
    with Image.open(done / "reconstruction.png") as picture:
        assert picture.size == (8 * (SIDE + 4) + 4, 2 * (SIDE + 4) + 4)
        # The first row is the pictures themselves.
        assert np.array_equal(np.asarray(picture)[4 : 4 + SIDE, 4 : 4 + SIDE], images[0].permute(1, 2, 0).numpy())


def test_training_and_decoding_can_use_it(data, done):
    module = LatentDataModule(done, batch_size=27)
    info = module.get_dataset_info()
    assert info["user_ids"] == list(USERS)
    assert info["latent_shape"] == (32, 2, 2)
    codec = LatentCodec(
        info["latent_shape"],
        info["mean"],
        info["std"],
        expected_id=info["codec"]["id"],
        expected_checksum=info["codec"]["checksum"],
    )
    codec.attach(load_image_codec(info["linear_codec"], img_size=tuple(info["codec"]["img_size"])))
    latents, _ = next(iter(module.train_dataloader()))
    x = codec.encode(latents)
    assert x.mean((0, 2, 3)).abs().max() < 1e-4
    assert (x.std((0, 2, 3)) - 1).abs().max() < 1e-4
    order = next(iter(module.train_dataloader())).index
    assert psnr(pixels_of(data, "train")[order], codec.decode(x)).mean_db > 15


def test_autoencoder_latents_are_draws_of_their_own(data, done_vae, vae_file):
    assert {path.name for path in done_vae.iterdir()} == RESULTS - {"linear_codec.safetensors"}
    codec = VAECodec.from_file(vae_file, img_size=SIDE)
    for number, split in enumerate(("train", "val")):
        distribution = codec.encode_distribution(pixels_of(data, split))
        seeds = [mix_seeds(42, number, row) for row in range(len(distribution.mean))]
        expected = distribution.mean + distribution.std * noise_from_seeds((4, SIDE // 2, SIDE // 2), seeds)
        held = load_file(done_vae / f"{split}.safetensors")["latents"]
        torch.testing.assert_close(held, expected, rtol=0, atol=1e-4)
    with safe_open(done_vae / "val.safetensors", "pt") as file:
        assert file.metadata()["codec_checksum"] == codec.checksum


def test_the_mean_can_be_taken_instead(data, vae_file, tmp_path):
    extract(data, tmp_path, vavae_path=vae_file, img_size=SIDE, device="cpu", sample=False)
    mean = VAECodec.from_file(vae_file, img_size=SIDE).encode_distribution(pixels_of(data, "val")).mean
    torch.testing.assert_close(load_file(tmp_path / "val.safetensors")["latents"], mean, rtol=0, atol=1e-4)


def test_another_batch_size_changes_nothing_that_matters(data, done_vae, vae_file, tmp_path):
    extract(data, tmp_path, vavae_path=vae_file, img_size=SIDE, batch_size=27, device="cpu")
    for name in ("train.safetensors", "val.safetensors"):
        a, b = load_file(done_vae / name)["latents"], load_file(tmp_path / name)["latents"]
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


def test_a_linear_codec_of_other_data_can_be_given(data, done, tmp_path):
    other = make_data(tmp_path / "data", seed=1)
    extract(other, tmp_path / "out", vavae_path=done / "linear_codec.safetensors", img_size=SIDE, device="cpu")
    module = LatentDataModule(tmp_path / "out")
    assert (
        module.get_dataset_info()["codec"]["checksum"] == LatentDataModule(done).get_dataset_info()["codec"]["checksum"]
    )
    assert module.get_dataset_info()["linear_codec"] == str(tmp_path / "out" / "linear_codec.safetensors")


def test_one_folder_is_split(data, tmp_path):
    extract(data / "train", tmp_path, img_size=SIDE, val_fraction=0.34, device="cpu")
    assert len(load_file(tmp_path / "val.safetensors")["labels"]) == 9


def test_statistics_do_not_cancel_or_hide():
    rng = np.random.default_rng(0)
    latents = np.add(rng.normal(size=(700, 3, 2, 2)), [[[1e4]], [[0]], [[-3]]]).astype(np.float32)
    mean, std = channel_statistics(latents)
    flat = latents.astype(np.float64).transpose(1, 0, 2, 3).reshape(3, -1)
    assert np.allclose(mean, flat.mean(1), rtol=1e-12, atol=1e-12)
    assert np.allclose(std, flat.std(1, ddof=1), rtol=1e-9)
    latents[:, 1] = 0.5
    with pytest.raises(DataError, match="latent channel 1 is the same"):
        channel_statistics(latents)


# --------------------------------------------------------------------------------------------- interruptions


class Interrupted(Exception):
    """Stands for whatever stops a run."""


def stop_after(monkeypatch, batches):
    """Let only so many batches be encoded."""
    encode, count = pipeline.fill_rows, iter(range(batches))

    def fill(tasks, codec, **options):
        for task in encode(tasks, codec, **options):
            yield task
            if next(count, None) is None:
                raise Interrupted

    monkeypatch.setattr(pipeline, "fill_rows", fill)


def encoded_starts(monkeypatch):
    """Record which batches are encoded."""
    encode, seen = pipeline.fill_rows, []

    def fill(tasks, codec, **options):
        seen.extend((task.split, task.start) for task in tasks)
        return encode(tasks, codec, **options)

    monkeypatch.setattr(pipeline, "fill_rows", fill)
    return seen


@pytest.mark.parametrize("batches", [0, 3, 6, 8])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_bits(data, done, tmp_path, monkeypatch, batches):
    options = {"img_size": SIDE, "batch_size": 4, "device": "cpu"}
    with monkeypatch.context() as patch:
        stop_after(patch, batches)
        with pytest.raises(Interrupted):
            extract(data, tmp_path, **options)
    assert not (tmp_path / "train.safetensors").exists()
    with pytest.raises(MissingFileError, match="is not finished"):
        LatentDataModule(tmp_path).prepare_data()
    seen = encoded_starts(monkeypatch)
    monkeypatch.setattr(LinearCodec, "fit", lambda *a: pytest.fail("fitted again"))
    extract(data, tmp_path, **options)
    everything = [("train", start) for start in range(0, 27, 4)] + [("val", start) for start in range(0, 12, 4)]
    assert seen == everything[batches + 1 :]
    same_files(tmp_path, done)
    assert {path.name for path in tmp_path.iterdir()} == RESULTS


def test_a_run_that_stops_between_the_two_files_goes_on(data, done, tmp_path, monkeypatch):
    options = {"img_size": SIDE, "batch_size": 4, "device": "cpu"}
    finish = ArrayFileWriter.finish

    def only_train(writer, metadata):
        if writer.path.name == "val.safetensors":
            raise Interrupted
        return finish(writer, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(ArrayFileWriter, "finish", only_train)
        with pytest.raises(Interrupted):
            extract(data, tmp_path, **options)
    assert (tmp_path / "train.safetensors").exists()
    assert not (tmp_path / "val.safetensors").exists()
    seen = encoded_starts(monkeypatch)
    extract(data, tmp_path, **options)
    assert seen == []
    same_files(tmp_path, done)


@pytest.mark.parametrize("kind", ["builtin", "vae", "linear"])
def test_a_run_that_stops_before_its_first_batch_goes_on(data, done, vae_file, tmp_path, monkeypatch, kind):
    codecs = {"builtin": "builtin", "vae": vae_file, "linear": done / "linear_codec.safetensors"}
    options = {"vavae_path": codecs[kind], "img_size": SIDE, "device": "cpu"}
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "fill_missing", lambda *a, **k: (_ for _ in ()).throw(Interrupted()))
        with pytest.raises(Interrupted):
            extract(data, tmp_path, **options)
    assert (tmp_path / "val.safetensors.part").exists()
    extract(data, tmp_path, **options)
    assert LatentDataModule(tmp_path).get_dataset_info()["num_samples"] == 27


def test_another_batch_size_goes_on_too(data, done, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Interrupted):
            extract(data, tmp_path, img_size=SIDE, batch_size=4, device="cpu")
    seen = encoded_starts(monkeypatch)
    extract(data, tmp_path, img_size=SIDE, batch_size=5, device="cpu")
    # Sixteen rows were there: the batch 15 to 19 lacks some.
    assert seen == [("train", 15), ("train", 20), ("train", 25), ("val", 0), ("val", 5), ("val", 10)]
    a, b = (load_file(folder / "train.safetensors")["latents"] for folder in (tmp_path, done))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


KILLED = """
import os, sys, time
print(os.getpid(), flush=True)
from jitflow.apps.microdoppler import extract as pipeline
pipeline.RECORD_EVERY_SEC = 0
fill = pipeline.fill_rows
def slowly(tasks, codec, **options):
    for task in fill(tasks, codec, **options):
        yield task
        time.sleep(0.2)
pipeline.fill_rows = slowly
pipeline.extract(sys.argv[1], sys.argv[2], img_size=32, batch_size=4, device="cpu")
"""


def test_a_killed_run_goes_on_and_ends_with_the_same_bits(data, done, tmp_path):
    words = [forked_python(), "-c", KILLED, str(data), str(tmp_path)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    number = int(process.stdout.readline())
    progress = tmp_path / "extraction.progress.json"
    for _ in range(2000):
        if progress.exists() and len(json.loads(progress.read_text())["done"].get("train", [])):
            break
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(number, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (tmp_path / "train.safetensors.part").exists()
    there = json.loads(progress.read_text())["done"]["train"]
    assert there[0][1] < 27
    extract(data, tmp_path, img_size=SIDE, batch_size=4, device="cpu")
    same_files(tmp_path, done)


def test_two_processes_give_the_same_bits_as_one(data, done_vae, vae_file, tmp_path, forked_workers):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    extract(data, tmp_path, vavae_path=vae_file, img_size=SIDE, batch_size=4, num_processes=2, device="cpu")
    torch.set_num_threads(threads)
    same_files(tmp_path, done_vae)


def test_a_damaged_image_stops_several_processes_and_is_named(tmp_path, vae_file, forked_workers):
    data = make_data(tmp_path / "data")
    (data / "val" / "ID_5" / "003.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot read .*val/ID_5/003\.png"):
        extract(data, tmp_path / "out", vavae_path=vae_file, img_size=SIDE, num_processes=2, device="cpu")
    assert (tmp_path / "out" / "train.safetensors.part").exists()


# ------------------------------------------------------------------------------------------- run again, mistakes


def test_run_again_nothing_is_done_twice(data, done, monkeypatch, caplog):
    before = {path: path.stat().st_mtime_ns for path in done.iterdir()}
    with caplog.at_level(logging.INFO, logger="jitflow"):
        # Neither matters without an autoencoder, nor does the way there.
        extract(data, done, img_size=SIDE, batch_size=7, seed=3, num_processes=2, sample=False)
    assert {path: path.stat().st_mtime_ns for path in done.iterdir()} == before
    assert "already extracted: 27 + 12 latents of 3 users" in caplog.text


def test_the_linear_codec_is_announced_with_what_it_loses(data, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="jitflow"):
        extract(data, tmp_path, img_size=SIDE, device="cpu")
    decibels = json.loads((tmp_path / "extraction.json").read_text())["psnr"]["mean_db"]
    assert "no autoencoder was given (--vavae_path), so the built-in linear codec was used: 32 principal" in caplog.text
    assert f"PSNR of {decibels:.1f} dB (mean of 12 validation images" in caplog.text


def test_other_inputs_do_not_mix(data, done, vae_file, tmp_path):
    other = make_data(tmp_path / "data", seed=1)
    for folder, options, differs in (
        (other, {"img_size": SIDE}, r"\(images\)"),
        (data, {"img_size": 48}, r"\(img_size\)"),
        (data, {"img_size": SIDE, "vavae_path": vae_file}, r"\(codec, sample, seed\)"),
    ):
        with pytest.raises(ConfigError, match=rf"other inputs {differs}"):
            extract(folder, done, device="cpu", **options)
    assert {path.name for path in done.iterdir()} == RESULTS


def test_overwriting(data, done, vae_file, tmp_path):
    extract(data, tmp_path, vavae_path=vae_file, img_size=SIDE, device="cpu", seed=7)
    with pytest.raises(ConfigError, match=r"other inputs \(seed\)"):
        extract(data, tmp_path, vavae_path=vae_file, img_size=SIDE, device="cpu", seed=8)
    extract(data, tmp_path, img_size=SIDE, batch_size=4, device="cpu", overwrite=True)
    same_files(tmp_path, done)


def test_a_mistake_does_not_cost_what_is_there(data, done, tmp_path):
    for options, error in (
        ({"device": "cuda:99"}, ConfigError),
        ({"vavae_path": "none.pt"}, MissingFileError),
        ({"val_fraction": 0.5}, ConfigError),
        ({"img_size": 40}, ConfigError),
    ):
        with pytest.raises(error):
            extract(data, done, overwrite=True, **{"img_size": SIDE, **options})
    assert {path.name for path in done.iterdir()} == RESULTS


def test_a_finished_folder_that_lost_a_file_is_made_anew(data, done, tmp_path):
    extract(data, tmp_path, img_size=SIDE, batch_size=4, device="cpu")
    (tmp_path / "val.safetensors").unlink()
    extract(data, tmp_path, img_size=SIDE, batch_size=4, device="cpu")
    same_files(tmp_path, done)
