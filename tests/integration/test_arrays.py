"""Spectrogram arrays through all stages: simulated in dB, extracted, trained on, drawn and evaluated as arrays."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import jitflow
from jitflow.apps.microdoppler.arrays.measure import measure_scale
from jitflow.apps.microdoppler.arrays.scale import ArrayScale
from jitflow.apps.microdoppler.gait import SpectrogramSettings, write_dataset
from jitflow.apps.microdoppler.judge import evaluate
from jitflow.apps.microdoppler.labelled_images import ImageSets, LabelledImages
from jitflow.apps.microdoppler.random_split import random_split_accuracy, warn_of_random_split
from jitflow.apps.microdoppler.user_images import find_user_images
from jitflow.cli import main
from jitflow.errors import DataError
from jitflow.io.files import read_json

USERS, EACH, SIDE, RANGE = 2, 8, 64, (-20.0, 40.0)
NET = '{"hidden_size": 32, "depth": 1, "num_heads": 2}'


def run(*words):
    assert main(["microdoppler", *map(str, words)]) == 0


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """Arrays of walks with a manifest: four sessions of two walks for each user."""
    root = tmp_path_factory.mktemp("campaign")
    settings = SpectrogramSettings(duration_sec=1.5)
    truth = write_dataset(
        root, num_users=USERS, images_per_user=EACH, val_fraction=0, settings=settings, file_format="npz"
    )
    lines = ["path,user,session"]
    lines += [f"{s['file']},{s['user_id']},{s['user_id']}-{(s['sample'] - 1) // 2}" for s in truth["samples"]]
    (root / "manifest.csv").write_text("\n".join(lines))
    (root / "spectrograms.yaml").write_text(f"range_db: {list(RANGE)}\ncolour_map: jet\n")
    return root


@pytest.fixture(scope="module")
def outputs(campaign, tmp_path_factory):
    """The stages, as their commands run them."""
    out = tmp_path_factory.mktemp("outputs")
    run(
        *("extract", "--data_dir", campaign, "--output_path", out / "latents"),
        *("--img_size", SIDE, "--val_fraction", 0.25, "--device", "cpu"),
    )
    run(
        *("train", "--latent_dir", out / "latents", "--output_dir", out / "run", "--batch_size", 4, "--max_epochs", 1),
        *("--model", "LightningDiT-N/4", "--model.net_settings", NET, "--trainer.accelerator", "cpu"),
    )
    run(
        *("sample", "--dit_checkpoint", out / "run", "--output_dir", out / "drawn", "--num_samples_per_user", 2),
        *("--num_steps", 2, "--device", "cpu"),
    )
    return out


def test_the_range_is_in_every_record(campaign, outputs):
    first = np.load(next(campaign.rglob("*.npz")))
    rows, columns = first["spectrogram"].shape
    checkpoint = torch.load(outputs / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    records = [
        read_json(outputs / "latents" / "extraction.json")["arrays"],
        read_json(outputs / "run" / "run.json")["data"]["arrays"],
        read_json(outputs / "drawn" / "generation.json")["settings"]["arrays"],
        next(value for value in _values_of(checkpoint, "arrays")),
    ]
    for record in records:
        scale = ArrayScale.of_record(record)
        assert scale.range_db == RANGE and scale.size == (rows, columns) and scale.lowest_first
        assert scale.axes.duration_sec == pytest.approx(1.5) and scale.axes.carrier_hz == 24e9
    extraction = read_json(outputs / "latents" / "extraction.json")
    assert extraction["leakage"]["group"] == "session" and extraction["leakage"]["num_groups"] == [6, 2]
    assert extraction["axes"]["velocity_max_m_s"] == pytest.approx(9, abs=0.03)
    # The error of the codec in decibels and its PSNR are the same number.
    expected = (RANGE[1] - RANGE[0]) * 10 ** (-extraction["psnr"]["pooled_db"] / 20)
    assert extraction["rms_error"] == {"value": pytest.approx(expected), "unit": "dB"}


def _values_of(content, name):
    if isinstance(content, dict):
        for key, value in content.items():
            if key == name and value:
                yield value
            yield from _values_of(value, name)


def test_drawn_files_are_arrays_in_decibels_with_axes_and_a_preview(campaign, outputs):
    drawn = outputs / "drawn"
    names = {f"micro_doppler_user0{user}_00{i}" for user in (1, 2) for i in (1, 2)}
    assert {path.stem for path in drawn.glob("*.npz")} == names
    assert {path.stem for path in drawn.glob("*.png")} == names | {"micro_doppler_grid"}
    real, made = np.load(next(campaign.rglob("*.npz"))), np.load(drawn / "micro_doppler_user02_001.npz")
    assert made["spectrogram"].shape == real["spectrogram"].shape and made["spectrogram"].dtype == np.float32
    assert RANGE[0] <= made["spectrogram"].min() < made["spectrogram"].max() <= RANGE[1]
    for name in ("velocity_m_s", "time_sec", "carrier_hz"):
        np.testing.assert_allclose(made[name], real[name], atol=1e-6)
    assert made["user"] == 2 and "frequency_hz" in made
    with Image.open(drawn / "micro_doppler_user02_001.png") as preview:
        assert preview.size == made["spectrogram"].shape[::-1]
    # The file's values are those of the samples in Python.
    model = jitflow.load(outputs / "run", device="cpu")
    sampled = model.sample(users=[2], seeds=[int(made["seed"])], steps=2, guidance=4.0)
    assert np.abs(sampled.arrays[0][0] - made["spectrogram"]).max() < 1e-2
    assert sampled.pixels.shape == (1, 1, *made["spectrogram"].shape)


def test_the_evaluation_reads_arrays_and_reports_leakage(campaign, outputs, tmp_path):
    given = {"val_fraction": 0.25, "num_steps": 3}
    report = evaluate(str(campaign), str(outputs / "drawn"), str(tmp_path), **given)
    assert report["num_real_val"] == 4 and report["num_generated"] == 4
    assert report["leakage"]["num_shared_groups"] == 0 and 0 <= report["random_split_accuracy"] <= 1
    # Axes and truth are the simulator's; real walks are read well, whatever was generated.
    assert report["step_frequency_within_5_percent_real"] >= 0.5
    assert json.loads((tmp_path / "evaluation.json").read_text())["leakage"] == report["leakage"]
    # Real samples as if they were generated: their levels are those of the data set, not of their previews.
    again = tmp_path / "again"
    shutil.copytree(outputs / "drawn", again)
    found = find_user_images(campaign, val_fraction=0.25)
    for i, image in enumerate(found.val):
        content = np.load(image.path)
        np.savez(again / f"micro_doppler_user{image.user_id:02d}_{i % 2 + 1:03d}.npz", **content)
    copies = evaluate(str(campaign), str(again), str(tmp_path / "out"), **given)
    assert copies["diversity_pixels_ratio"] == pytest.approx(1)
    assert copies["step_frequency_within_5_percent"] == copies["step_frequency_within_5_percent_real"]
    # Rows in another order would be other pixels.
    assert copies["nearest_train_median"] == pytest.approx(copies["nearest_train_median_real"])


def test_arrays_and_pictures_are_not_compared(campaign, outputs, tmp_path):
    pictures = tmp_path / "pictures"
    shutil.copytree(outputs / "drawn", pictures, ignore=shutil.ignore_patterns("*.npz", "*.json"))
    with pytest.raises(DataError, match="pictures"):
        evaluate(str(campaign), str(pictures), str(tmp_path / "out"), val_fraction=0.25)
    arrays = tmp_path / "arrays"
    shutil.copytree(outputs / "drawn", arrays, ignore=shutil.ignore_patterns("*.json"))
    with pytest.raises(DataError, match=r"generation\.json"):
        evaluate(str(campaign), str(arrays), str(tmp_path / "out"), val_fraction=0.25)


def test_drawn_arrays_are_a_data_set_themselves(outputs):
    found = find_user_images(outputs / "drawn", val_fraction=0.5)
    scale = measure_scale([image.path for image in found.train], found.arrays)
    assert found.user_ids == (1, 2) and len(found.train) == len(found.val) == USERS
    assert scale.axes.duration_sec == pytest.approx(1.5) and scale.axes.velocity_m_s[1] == pytest.approx(9, abs=0.03)


def test_a_random_split_that_is_too_good_is_a_warning(caplog):
    generator = torch.Generator().manual_seed(0)
    # A user looks different in every session, so only who knows the session knows the user.
    looks = (
        torch.randint(0, 256, (2, 4, 1, 16, 16), generator=generator).repeat_interleave(4, 3).repeat_interleave(4, 4)
    )

    def images(sessions):
        picked = looks[:, sessions].repeat_interleave(6, 1)
        return LabelledImages(
            picked.flatten(0, 1).to(torch.uint8), torch.arange(2).repeat_interleave(6 * len(sessions))
        )

    train, val = images([0, 1, 2]), images([3])
    accuracy = random_split_accuracy(ImageSets(val, train, val, [1, 2]), num_steps=60)
    assert accuracy > 0.9
    for disjoint, warned in ((0.5, True), (accuracy, False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            warn_of_random_split({"random_split_accuracy": accuracy, "identity_accuracy_real": disjoint})
        assert ("random split" in caplog.text) == warned
    warn_of_random_split({"random_split_accuracy": None, "identity_accuracy_real": 0.1})
