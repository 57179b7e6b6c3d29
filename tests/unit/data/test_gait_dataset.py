"""Folders of simulated pictures: layout, truth, restart, bad input."""

import json
import multiprocessing
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jitflow.apps.images.data import JiTDataModule
from jitflow.apps.microdoppler.gait import (
    Radar,
    SpectrogramSettings,
    Variation,
    dataset_parameters,
    draw_walk,
    draw_walkers,
    radar_for_carrier,
    simulate_image,
    torso_velocity_m_s,
    true_step_frequency_hz,
    write_dataset,
)
from jitflow.errors import ConfigError

# Small pictures, for speed.
SMALL = SpectrogramSettings(duration_sec=0.5, hop_sec=0.02, height_px=32, width_px=32)
SET = {"num_users": 3, "images_per_user": 5, "val_fraction": 0.4, "seed": 11, "settings": SMALL}


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_class_folders_and_truth(tmp_path):
    told = []
    truth = write_dataset(tmp_path, **SET, on_image=lambda done, total: told.append((done, total)))
    assert told == [(n, 15) for n in range(16)]
    train = [f"train/ID_{u}/ID_{u}_{i:04d}.png" for u in (1, 2, 3) for i in (1, 2, 3)]
    val = [f"val/ID_{u}/ID_{u}_{i:04d}.png" for u in (1, 2, 3) for i in (4, 5)]
    assert set(contents(tmp_path)) == {*train, *val, "simulation.json"}
    assert json.loads((tmp_path / "simulation.json").read_text()) == truth
    assert truth == dataset_parameters(**SET)
    walkers = draw_walkers(3, 11)
    for sample in truth["samples"]:
        user = sample["user_id"] - 1
        walk = draw_walk(11, user, sample["sample"] - 1)
        pixels = np.asarray(Image.open(tmp_path / sample["file"]))
        np.testing.assert_array_equal(pixels, simulate_image(walkers[user], walk, Radar(), SMALL))
        assert sample["step_frequency_hz"] == true_step_frequency_hz(walkers[user], walk)
        assert sample["torso_velocity_m_s"] == torso_velocity_m_s(walkers[user], walk)
        assert sample["snr_db"] == walk.snr_db
        assert sample["split"] == sample["file"].split("/")[0]
    assert [user["height_m"] for user in truth["users"]] == [walker.height_m for walker in walkers]


def test_the_library_reads_the_folder(tmp_path):
    write_dataset(tmp_path, **SET)
    data = JiTDataModule(str(tmp_path), img_size=32, batch_size=4, num_workers=0)
    data.setup("fit")
    info = data.get_dataset_info()
    assert info["classes"] == ["ID_1", "ID_2", "ID_3"]
    assert (info["num_samples"], info["num_val_samples"]) == (9, 6)


def test_flat_layout(tmp_path):
    write_dataset(tmp_path, **SET, layout="flat")
    names = set(contents(tmp_path))
    assert {"train/user_01_sample_001.png", "train/user_03_sample_003.png", "val/user_02_sample_005.png"} <= names
    assert len(names) == 16


def test_restart_keeps_whole_pictures_and_mends_the_rest(tmp_path):
    write_dataset(tmp_path, **SET)
    whole = contents(tmp_path)
    kept = tmp_path / "train/ID_1/ID_1_0001.png"
    before = kept.stat().st_mtime_ns
    (tmp_path / "train/ID_2/ID_2_0002.png").unlink()
    cut = tmp_path / "val/ID_3/ID_3_0005.png"
    cut.write_bytes(cut.read_bytes()[:-5])
    (tmp_path / "val/ID_1/ID_1_0004.png").write_bytes(b"")
    # What atomic_path leaves behind when the process is killed.
    (tmp_path / "train/ID_2/.ID_2_0002.png.x7_f2a.png").write_bytes(b"half")
    told = []
    write_dataset(tmp_path, **SET, on_image=lambda done, total: told.append(done))
    assert told == [12, 13, 14, 15]
    assert contents(tmp_path) == whole
    assert kept.stat().st_mtime_ns == before


def test_an_interrupted_set_is_finished(tmp_path):
    write_dataset(tmp_path / "whole", **SET)

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "part", **SET, on_image=stop)
    assert len(contents(tmp_path / "part")) == 5
    write_dataset(tmp_path / "part", **SET)
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")


def test_processes_change_nothing(tmp_path, forked_workers):
    write_dataset(tmp_path / "one", **(SET | {"images_per_user": 8}))
    told = []
    write_dataset(
        tmp_path / "two",
        **(SET | {"images_per_user": 8}),
        num_processes=2,
        on_image=lambda done, total: told.append(done),
    )
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert told == sorted(told) and (told[0], told[-1]) == (0, 24)
    assert not multiprocessing.active_children()


def test_more_users_or_images_change_none(tmp_path):
    small = {s["file"]: s for s in dataset_parameters(num_users=2, images_per_user=3, val_fraction=0)["samples"]}
    large = {s["file"]: s for s in dataset_parameters(num_users=4, images_per_user=9, val_fraction=0)["samples"]}
    assert small.items() <= large.items()


def test_defaults_follow_radar_and_direction():
    def settings(**arguments):
        return dataset_parameters(num_users=1, images_per_user=2, **arguments)["parameters"]["settings"]

    assert settings()["window_sec"] == 0.1
    assert settings(radar=radar_for_carrier(77e9))["window_sec"] == 0.06
    away = settings(variation=Variation(direction="away"))
    assert (away["velocity_min_m_s"], away["velocity_max_m_s"]) == (-9, 3)
    both = settings(variation=Variation(direction="both"))
    assert both["velocity_min_m_s"] == -both["velocity_max_m_s"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"num_users": 0}, "num_users"),
        ({"images_per_user": 0}, "images_per_user"),
        ({"images_per_user": 1}, "images_per_user 1 leaves none"),
        ({"val_fraction": 1.0}, "val_fraction"),
        ({"val_fraction": -0.1}, "val_fraction"),
        ({"seed": -1}, "seed"),
        ({"layout": "tree"}, "layout"),
        ({"num_processes": 0}, "num_processes"),
        ({"num_users": 31, "min_cadence_gap": 0.1}, "min_cadence_gap"),
        ({"radar": Radar(prf_hz=500)}, "prf_hz"),
        ({"settings": SpectrogramSettings(fft_size=64)}, "fft_size"),
        ({"variation": Variation(direction="away")}, "velocity_min_m_s"),
        ({"settings": SpectrogramSettings(velocity_max_m_s=1)}, "velocity_max_m_s"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(tmp_path, arguments, word):
    with pytest.raises(ConfigError, match=word) as caught:
        write_dataset(tmp_path / "set", **(SET | arguments))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "set").exists()


def test_another_set_is_not_mixed_in(tmp_path):
    write_dataset(tmp_path, **SET)
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"\(images_per_user, seed\)"):
        write_dataset(tmp_path, **(SET | {"seed": 12, "images_per_user": 6}))
    assert contents(tmp_path) == before


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(ConfigError, match="not a simulated set"):
        write_dataset(tmp_path, **SET)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        write_dataset(file, **SET)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "simulation.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        write_dataset(damaged, **SET)


def test_the_documented_snippets_run(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[3] / "docs/gait_simulator.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) == 3
    monkeypatch.chdir(tmp_path)
    for snippet in snippets:
        exec(snippet, {})
    shape, steps, file, signal = capsys.readouterr().out.splitlines()
    assert signal == "(4000,) complex128"
    assert shape == "(256, 256, 3) uint8"
    assert [round(float(number), 2) for number in steps.split()] == [1.76, 1.76]
    assert file == "train/ID_1/ID_1_0001.png"
    assert (tmp_path / "gait_data/val/ID_1/ID_1_0004.png").is_file()
