"""Generated images of which is known how good they are: real ones, mislabelled ones, copies, blanks."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from jitflow.apps.microdoppler.gait import SpectrogramSettings, Variation, write_dataset
from jitflow.apps.microdoppler.image_scores import evaluate_images
from jitflow.apps.microdoppler.judge import card_of_folder, evaluate
from jitflow.apps.microdoppler.judge_pictures import print_report
from jitflow.apps.microdoppler.labelled_images import ImageSets, LabelledImages, read_generated
from jitflow.apps.microdoppler.physics import GaitTruth, truth_from_simulation
from jitflow.errors import ConfigError, DataError, MissingFileError
from jitflow.evaluation.report import build_report, is_trained_on
from jitflow.evaluation.score_sheet import ScoreSheet
from jitflow.io.files import file_checksum, read_json, write_json

USERS, TRAIN, VAL, MADE = 3, 12, 6, 6
STEPS = 50
SETTINGS = SpectrogramSettings(duration_sec=2.0, height_px=64, width_px=96)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A simulated set in ``data/``, and more walks of the same users in ``generated/``, as if a model had made them."""
    root = tmp_path_factory.mktemp("gait")
    truth = write_dataset(
        root / "data",
        num_users=USERS,
        images_per_user=TRAIN + VAL + MADE,
        val_fraction=(VAL + MADE) / (TRAIN + VAL + MADE),
        seed=3,
        settings=SETTINGS,
        variation=Variation(snr_db=(30, 40), aspect_deg=5),
        min_cadence_gap=0.15,
    )
    (root / "generated").mkdir()
    for sample in truth["samples"]:
        number = sample["sample"] - TRAIN - VAL
        if number > 0:
            name = f"micro_doppler_user{sample['user_id']:02d}_{number:03d}.png"
            (root / "data" / sample["file"]).rename(root / "generated" / name)
    Image.new("RGB", (500, 300)).save(root / "generated" / "micro_doppler_grid.png")
    return root


@pytest.fixture(scope="module")
def arrays(data):
    """The same as tensors: generated, training and held-out images with labels."""

    def read(folder):
        files = sorted((data / "data" / folder).rglob("*.png"))
        pixels = np.stack([np.asarray(Image.open(file)) for file in files])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor([int(f.parent.name[3:]) - 1 for f in files])

    return (*read_generated(data / "generated", range(1, USERS + 1)), *read("train"), *read("val"))


def sets_of(arrays, user_ids):
    made, made_labels, train, train_labels, val, val_labels = arrays
    sets = (LabelledImages(made, made_labels), LabelledImages(train, train_labels), LabelledImages(val, val_labels))
    return ImageSets(*sets, user_ids)


def judge(arrays, generated=None, labels=None, user_ids=(1, 2, 3), **more):
    """Evaluate with other generated images or labels."""
    made, made_labels, *real = arrays
    changed = (made if generated is None else generated, made_labels if labels is None else labels, *real)
    return evaluate_images(sets_of(changed, user_ids), **{"settings": SETTINGS, "num_steps": STEPS, **more}).scores


@pytest.fixture(scope="module")
def good(arrays):
    return judge(arrays, codec_psnr_db=24.5)


def test_other_walks_of_the_same_users_are_as_good_as_real_ones(good):
    assert good["identity_accuracy"] > 0.9
    assert good["identity_accuracy_real"] > 0.9
    assert good["tstr_accuracy"] > 0.8
    assert good["trtr_accuracy"] > 0.8
    assert good["step_frequency_within_5_percent"] > 0.9
    assert good["step_frequency_within_5_percent_real"] > 0.9
    assert good["torso_velocity_within_5_percent"] > 0.7
    assert good["torso_velocity_within_5_percent_real"] > 0.7
    assert good["diversity_pixels_ratio"] == pytest.approx(1, abs=0.2)
    assert good["diversity_features_ratio"] == pytest.approx(1, abs=0.5)
    assert good["nearest_train_copies"] < 0.3
    assert good["nearest_train_median"] == pytest.approx(good["nearest_train_median_real"], rel=0.2)
    assert good["truth_source"].startswith("median of the real training images")
    assert good["physics_skipped"] is None
    assert good["codec_psnr_db"] == 24.5
    counts = [good[f"num_{name}"] for name in ("generated", "real_train", "real_val", "users")]
    assert counts == [USERS * MADE, USERS * TRAIN, USERS * VAL, USERS]
    assert good["transfer_train_images"] == USERS * MADE
    json.dumps(good, allow_nan=False)


def test_each_user_has_a_row_that_adds_up(good):
    assert [user["user_id"] for user in good["users"]] == [1, 2, 3]
    for user in good["users"]:
        assert (user["num_generated"], user["num_real_val"]) == (MADE, VAL)
        assert user["step_frequency_hz_generated"] == pytest.approx(user["step_frequency_hz"], rel=0.05)
        assert user["torso_velocity_m_s_generated"] == pytest.approx(user["torso_velocity_m_s"], rel=0.1)
    for name in ("identity_accuracy", "identity_accuracy_real", "step_frequency_within_5_percent"):
        assert np.mean([user[name] for user in good["users"]]) == pytest.approx(good[name])
    lowest = min(user["diversity_pixels_ratio"] for user in good["users"])
    assert good["diversity_pixels_ratio_lowest"] == pytest.approx(lowest)
    assert np.sum(good["confusion"], axis=1).tolist() == [MADE] * USERS
    assert np.sum(good["confusion_real"], axis=1).tolist() == [VAL] * USERS
    assert np.trace(good["confusion"]) / (USERS * MADE) == pytest.approx(good["identity_accuracy"])
    named = np.bincount(good["predicted"], minlength=USERS)
    assert np.sum(good["confusion"], axis=0).tolist() == named.tolist()


def test_the_held_out_images_themselves_are_exactly_as_good(arrays):
    report = judge(arrays, arrays[4], arrays[5], num_steps=5)
    for name in ("identity_accuracy", "step_frequency_within_5_percent", "torso_velocity_within_5_percent"):
        assert report[name] == report[f"{name}_real"]
    assert report["diversity_pixels_ratio"] == pytest.approx(1)
    assert report["diversity_features_ratio_lowest"] == pytest.approx(1)
    assert report["nearest_train_median"] == report["nearest_train_median_real"]
    assert report["confusion"] == report["confusion_real"]


def test_images_under_other_users_names_are_found_out(arrays, good):
    report = judge(arrays, labels=(arrays[1] + 1) % USERS)
    assert report["identity_accuracy"] <= 1 - good["identity_accuracy"]
    assert report["tstr_accuracy"] < 0.2
    assert report["trtr_accuracy"] == good["trtr_accuracy"]
    assert report["step_frequency_within_5_percent"] == 0
    assert [user["step_frequency_within_5_percent"] for user in report["users"]] == [0, 0, 0]
    assert report["identity_accuracy_real"] == good["identity_accuracy_real"]


def test_copies_are_found_out(arrays):
    _, _, train, labels, _, _ = arrays
    report = judge(arrays, train, labels, num_steps=1)
    assert report["nearest_train_copies"] == 1
    assert report["nearest_train_median"] == pytest.approx(0, abs=1e-4)
    assert report["nearest_train_copy_threshold"] > 1


def test_a_group_of_an_interval_has_images_of_every_user(arrays):
    made, labels, train, train_labels, *_ = arrays
    # The first user's are copies, so a group of another make-up would change their share.
    mixed = torch.where((labels == 0)[:, None, None, None], train[train_labels == 0][:1], made)
    sheet = evaluate_images(sets_of((mixed, *arrays[1:]), (1, 2, 3)), num_steps=1).sheet
    assert sheet.metrics["pixels/copies"] >= 1 / USERS
    assert np.ptp(sheet.intervals["pixels/copies"].replicates) < 0.1


def test_the_same_image_every_time_has_no_variety_and_a_blank_no_gait(arrays, good):
    blank = torch.full_like(arrays[0], 80)
    report = judge(arrays, blank, num_steps=1)
    assert report["diversity_pixels_ratio"] == pytest.approx(0, abs=1e-6)
    assert report["diversity_features_ratio"] == pytest.approx(0, abs=1e-4)
    assert report["step_frequency_within_5_percent"] == 0
    assert report["users"][0]["step_frequency_hz_generated"] is None
    json.dumps(report, allow_nan=False)
    one_user = arrays[0].clone()
    mine = arrays[1] == 1
    one_user[mine] = one_user[mine][:1]
    collapsed = judge(arrays, one_user, num_steps=1)
    assert collapsed["diversity_pixels_ratio_lowest"] == pytest.approx(0, abs=1e-6)
    assert [user["diversity_pixels_ratio"] < 0.1 for user in collapsed["users"]] == [False, True, False]
    assert collapsed["diversity_pixels_ratio"] == pytest.approx(good["diversity_pixels_ratio"] * 2 / 3, abs=0.1)


def test_physics_is_left_out_where_the_axes_are_unknown_and_says_so(arrays):
    report = judge(arrays, settings=None, num_steps=1)
    assert report["step_frequency_within_5_percent"] is None
    assert report["torso_velocity_within_5_percent_real"] is None
    assert "axes and colours" in report["physics_skipped"]
    assert "step_frequency_hz" not in report["users"][0]
    console = Console(record=True, width=100)
    print_report(report, console)
    text = console.export_text()
    assert "gait not read: the axes and colours" in text
    assert "step frequency within 5 %" in text


def test_a_given_truth_is_what_counts(arrays, data):
    simulation = read_json(data / "data" / "simulation.json")
    truth = truth_from_simulation(simulation, [1, 2, 3])
    assert judge(arrays, truth=truth, num_steps=1)["step_frequency_within_5_percent"] > 0.9
    other = GaitTruth(truth.step_frequency_hz * 1.3, truth.torso_velocity_m_s * math.nan, "elsewhere")
    report = judge(arrays, truth=other, num_steps=1)
    assert report["step_frequency_within_5_percent"] == report["step_frequency_within_5_percent_real"] == 0
    assert report["torso_velocity_within_5_percent"] == 0
    assert report["truth_source"] == "elsewhere"
    with pytest.raises(ConfigError, match="about 3 users, but there are 2"):
        two = [part[keep] for i in (1, 3, 5) for keep in [arrays[i] < 2] for part in arrays[i - 1 : i + 1]]
        evaluate_images(sets_of(two, [1, 2]), settings=SETTINGS, truth=truth)


def test_the_seed_decides(arrays, good):
    first, again, other = (judge(arrays, num_steps=2, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert other["diversity_features"] != first["diversity_features"]
    assert other["diversity_pixels"] == first["diversity_pixels"] == good["diversity_pixels"]


def test_the_command_reads_folders_and_leaves_numbers_and_pictures(data, good, tmp_path, capsys):
    report = evaluate(str(data / "data"), str(data / "generated"), str(tmp_path / "out"), num_steps=STEPS)
    assert read_json(tmp_path / "out" / "evaluation.json") == report
    for name in ("identity_accuracy", "tstr_accuracy", "diversity_pixels", "nearest_train_median", "confusion"):
        assert report[name] == good[name]
    assert report["truth_source"] == "simulation.json"
    assert report["step_frequency_within_5_percent"] > 0.9
    assert report["data_dir"] == str(data / "data")
    shown = capsys.readouterr().out
    assert "18 generated images" in shown
    assert "the users' own gait: simulation.json" in shown
    assert "real_and_generated.png" in shown
    metrics, intervals = report["metrics"], report["intervals"]
    assert metrics["user-classifier/identity_accuracy"] == report["identity_accuracy"]
    assert metrics["pixels/copies"] == report["nearest_train_copies"]
    assert metrics["pixels/diversity"] == pytest.approx(report["diversity_pixels_ratio"])
    assert intervals.keys() == metrics.keys()
    assert all(intervals[name]["low"] <= value <= intervals[name]["high"] for name, value in metrics.items())
    assert report["protocol"]["reference"]["num_train"] == USERS * TRAIN and report["trained_on"] == []
    with Image.open(tmp_path / "out" / "nearest_pairs.png") as sheet:
        assert sheet.width > 10 * 96
    with Image.open(tmp_path / "out" / "real_and_generated.png") as sheet:
        # Three rows of six panels.
        assert sheet.width > 1.6 * sheet.height
        colours = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
    # The first colour of viridis is the background of every panel.
    assert (np.abs(colours.astype(int) - [68, 1, 84]).max(axis=1) < 4).mean() > 0.2
    with Image.open(tmp_path / "out" / "confusion.png") as sheet:
        assert sheet.width > sheet.height


def test_the_card_of_a_folder_is_that_of_its_record(tmp_path):
    checkpoint = tmp_path / "best.ckpt"
    checkpoint.write_bytes(b"weights")
    settings = {"checkpoint": str(checkpoint), "steps": 30, "guidance": 2.0, "trained_on": ["user-classifier"]}
    write_json(tmp_path / "generation.json", {"settings": settings, "images": [{"seed": 5}, {"seed": 9}]})
    card, trained_on = card_of_folder(tmp_path)
    assert (card["steps"], card["guidance"], card["num_images"]) == (30, 2.0, 2) and trained_on == ["user-classifier"]
    assert card["checkpoint_sha256"] == file_checksum(checkpoint)
    report = build_report(
        ScoreSheet({"user-classifier/identity_accuracy": 1.0, "pixels/copies": 0.0}), card, trained_on
    )
    assert [is_trained_on(name, report) for name in report["metrics"]] == [True, False]
    (tmp_path / "generation.json").unlink()
    assert card_of_folder(tmp_path)[0]["checkpoint_sha256"] is None


def test_real_images_come_to_the_size_of_the_generated_ones_and_settings_from_a_file(data, tmp_path, capsys):
    small, bare, flat = tmp_path / "small", tmp_path / "bare", tmp_path / "flat"
    small.mkdir()
    flat.mkdir()
    shutil.copytree(data / "data", bare)
    (bare / "simulation.json").unlink()
    for file in sorted((data / "generated").glob("*user*.png")):
        Image.open(file).resize((64, 48)).save(small / file.name)
    out = str(tmp_path / "out")
    report = evaluate(str(bare), str(small), out, num_steps=2)
    assert "gait not read: the axes" in capsys.readouterr().out
    assert report["physics_skipped"]
    assert report["diversity_pixels_ratio"] == pytest.approx(1, abs=0.2)
    assert report["nearest_train_median"] == pytest.approx(report["nearest_train_median_real"], rel=0.2)
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"duration_sec": 2.0}))
    report = evaluate(str(bare), str(small), out, num_steps=2, settings=str(settings))
    assert report["step_frequency_within_5_percent"] > 0.9
    assert report["truth_source"].startswith("median")
    assert "the users' own gait: median" in capsys.readouterr().out
    settings.write_text(json.dumps({"duration": 2.0}))
    with pytest.raises(ConfigError, match=r"settings\.json: unknown .*duration"):
        evaluate(str(bare), str(small), out, settings=str(settings))
    settings.write_text("[2.0]")
    with pytest.raises(ConfigError, match="must hold an object"):
        evaluate(str(bare), str(small), out, settings=str(settings))
    # One folder, split here as stage 1 splits it.
    shutil.copytree(bare / "train", flat, dirs_exist_ok=True)
    report = evaluate(str(flat), str(small), out, num_steps=2, val_fraction=0.25)
    assert (report["num_real_train"], report["num_real_val"]) == (27, 9)
    other = evaluate(str(flat), str(small), out, num_steps=2, val_fraction=0.25, split_seed=7)
    assert other["diversity_pixels_real"] != report["diversity_pixels_real"]


def test_generated_images_are_read_by_user_and_number(data, tmp_path):
    for name, level in (("a_user12_002", 2), ("a_user12_001", 1), ("a_user07_001", 7), ("b_user12_010", 10)):
        Image.new("RGB", (6, 4), (level, level, level)).save(tmp_path / f"{name}.png")
    (tmp_path / "notes_user07_001.txt").write_text("no image")
    (tmp_path / "._a_user12_001.png").write_bytes(b"what an archive of another system leaves")
    images, labels = read_generated(tmp_path, [7, 9, 12])
    assert images.shape == (4, 3, 4, 6)
    assert images[:, 0, 0, 0].tolist() == [7, 1, 2, 10]
    assert labels.tolist() == [0, 2, 2, 2]


def test_bad_folders(data, tmp_path):
    with pytest.raises(MissingFileError, match="generated_dir"):
        read_generated(tmp_path / "none", [1])
    with pytest.raises(DataError, match="it holds nothing"):
        read_generated(tmp_path, [1])
    Image.new("RGB", (6, 4)).save(tmp_path / "grid.png")
    with pytest.raises(DataError, match=r"it holds grid\.png"):
        read_generated(tmp_path, [1])
    Image.new("RGB", (6, 4)).save(tmp_path / "x_user01_001.png")
    with pytest.raises(DataError, match="user 1, of whom the data has none"):
        read_generated(tmp_path, [2, 3])
    Image.new("RGB", (4, 6)).save(tmp_path / "x_user01_002.png")
    with pytest.raises(DataError, match=r"002\.png is 4x6, .*001\.png 6x4"):
        read_generated(tmp_path, [1])
    (tmp_path / "x_user01_002.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"x_user01_002\.png"):
        read_generated(tmp_path, [1])
    (tmp_path / "few").mkdir()
    for user in (1, 1, 2, 2, 3):
        source = data / "generated" / f"micro_doppler_user{user:02d}_001.png"
        shutil.copy(source, tmp_path / "few" / f"x_user{user}_{len(list((tmp_path / 'few').iterdir()))}.png")
    with pytest.raises(DataError, match=r"generated images .*user 3 \(1\)"):
        evaluate(str(data / "data"), str(tmp_path / "few"), str(tmp_path / "out"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        evaluate(str(data / "data"), str(data / "generated"), str(tmp_path / "file"))


def test_sets_that_cannot_be_judged(arrays):
    made, labels, train, train_labels, val, val_labels = arrays
    keep = labels != 1
    with pytest.raises(DataError, match=r"generated images .*user 2 \(0\)"):
        judge(arrays, made[keep], labels[keep])
    first = torch.cat([torch.arange(1), torch.arange(MADE, USERS * MADE)])
    with pytest.raises(DataError, match=r"user 1 \(1\)"):
        judge(arrays, made[first], labels[first])
    with pytest.raises(DataError, match=r"held-out images .*user 3 \(1\)"):
        judge((made, labels, train, train_labels, val[: 2 * VAL + 1], val_labels[: 2 * VAL + 1]))
    with pytest.raises(DataError, match="no generated images"):
        judge(arrays, made[:0], labels[:0])
    with pytest.raises(ConfigError, match=r"generated \(3, 32, 96\).*\(3, 64, 96\)"):
        judge(arrays, made[:, :, :32])
    with pytest.raises(ConfigError, match=r"labels must lie in \[0, 3\)"):
        judge(arrays, made, labels + 1)
    with pytest.raises(ConfigError, match="user_ids"):
        judge(arrays, user_ids=[1, 2, 2])
