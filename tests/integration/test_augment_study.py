"""The augmentation study as a whole: who sees which samples, resuming, and what it leaves behind."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from jitflow import cli
from jitflow.apps.microdoppler.labelled_images import LabelledImages
from jitflow.apps.microdoppler.study import data, generator, runner, work
from jitflow.apps.microdoppler.study.plan import Arm, Replicate
from jitflow.apps.microdoppler.study.report import HEADLINE
from jitflow.apps.microdoppler.study.settings import NetworkOptions, PeopleOptions, StudyOptions, TrainingsOptions
from jitflow.apps.microdoppler.study.work import Work
from jitflow.errors import ConfigError, DataError

USERS, SESSIONS, EACH = 2, 4, 4
TINY = NetworkOptions(width=64, depth=1, pretraining_steps=4, generator_steps=4, sampling_steps=2)
QUICK = TrainingsOptions(cnn_steps=3)


def write_arrays(folder, *, users=USERS, seed=0, held_out=1, same_session=False):
    """Spectrograms without axes, all different, with the last sessions to test on."""
    folder.mkdir(parents=True)
    draws, rows = np.random.default_rng(seed), []
    for user in range(1, users + 1):
        for session in range(SESSIONS):
            for i in range(EACH):
                name = f"u{user}s{session}_{i}.npy"
                levels = draws.uniform(-20, 0, (48, 40))
                levels[10 * user : 10 * user + 5] += 20
                np.save(folder / name, levels.astype(np.float32))
                split = "val" if session >= SESSIONS - held_out else "train"
                rows.append([name, user, f"{user}-{0 if same_session else session}", split])
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "user", "session", "split"], *rows])
    (folder / "spectrograms.yaml").write_text("range_db: [-20, 20]\n", encoding="utf-8")
    return folder


@pytest.fixture
def seen(monkeypatch):
    """A generator that repeats what it was trained on; what each was given, by its folder's name."""
    given = {}

    def train(folder, subset, user_ids, options, seed, *, base=None, is_base=False):
        given[folder.path.name] = (subset, base)

    def draw(folder, counts, channels, options, seed):
        images, labels = given[folder.path.name][0]
        own = [images[labels == user] for user in range(len(counts))]
        chosen = [own[user][torch.arange(count) % len(own[user])] for user, count in enumerate(counts)]
        made = torch.tensor([user for user, count in enumerate(counts) for _ in range(count)])
        return LabelledImages(torch.cat(chosen), made)

    few = [Arm(), Arm(classical=True), HEADLINE, Arm("generated", 1.0, sifted=True)]
    monkeypatch.setattr(runner, "list_arms", lambda **settings: few)
    monkeypatch.setattr(work, "train_generator", train)
    monkeypatch.setattr(work, "draw_samples", draw)
    return given


def run(folder, root, **study):
    chosen = StudyOptions(data_dir=str(root), num_seeds=2, num_processes=1, **study)
    return runner.run_study(folder, chosen, PeopleOptions(), TINY, QUICK)


def rows(images):
    return {row.numpy().tobytes() for row in images}


def test_no_generator_and_no_classifier_sees_more_than_its_samples(tmp_path, seen, monkeypatch):
    trained = []
    predict = work.predict_users

    def note(kind, train, images, num_users, **settings):
        trained.append((train, images))
        return predict(kind, train, images, num_users, **settings)

    monkeypatch.setattr(work, "predict_users", note)
    others = write_arrays(tmp_path / "others", users=3, seed=1)
    report = run(tmp_path / "study", write_arrays(tmp_path / "data"), others_dir=str(others))
    train, test = (
        data.read_spectrograms(tmp_path / "study" / work.DATA / f"{n}.safetensors") for n in ("train", "test")
    )
    assert len(train.images) == USERS * 12 and len(test.images) == USERS * 4
    assert not rows(train.images) & rows(test.images)
    assert {name: len(subset.images) for name, (subset, _) in seen.items()} == {
        "pretraining": 3 * SESSIONS * EACH,
        "n-5-seed0": USERS * 5,
        "n-5-seed1": USERS * 5,
        "n-all": USERS * 12,
    }
    for name, (subset, base) in seen.items():
        assert (rows(subset.images) <= rows(train.images)) == (name != "pretraining") == (base is not None)
    # The stand-in adds what it was trained on: nothing else reaches a classifier of its subset and seed.
    allowed = [rows(seen[name][0].images) for name in ("n-5-seed0", "n-5-seed1", "n-all")]
    for subset, images in trained:
        assert any(rows(subset.images) <= own for own in allowed) and torch.equal(images, test.images)
    assert "48 spectrograms of 3 other people" in report["sources"]
    assert report["leakage"]["num_shared_groups"] == 0


def test_generators_work_without_the_test_file(tmp_path, seen):
    root = write_arrays(tmp_path / "data")
    data.prepare_data(tmp_path / work.DATA, root, None, None, 0)
    (tmp_path / work.DATA / "test.safetensors").unlink()
    replicate = Replicate("5", 0, ())
    work.make_samples((Work(tmp_path, TINY, QUICK, 0, 1), replicate), lambda: None)
    assert work.samples_of(generator.GeneratorFolder(tmp_path / work.GENERATORS / replicate.generator)).is_file()


def test_a_killed_study_resumes_to_the_same_numbers(tmp_path, seen, monkeypatch):
    root = write_arrays(tmp_path / "data")
    whole = run(tmp_path / "whole", root)
    predict, calls = work.predict_users, []

    def stop(*args, **settings):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return predict(*args, **settings)

    monkeypatch.setattr(work, "predict_users", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", root)
    cells = tmp_path / "cut" / work.CELLS
    kept = {path: path.stat().st_mtime_ns for path in cells.iterdir()}
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut" / work.GENERATORS).rglob("samples.safetensors")}
    assert len(kept) == 5 and len(made) == 3 and not (tmp_path / "cut" / "study.json").exists()
    resumed = run(tmp_path / "cut", root)
    assert resumed["cells"] == whole["cells"] and resumed["finding"] == whole["finding"]
    assert all(path.stat().st_mtime_ns == time for path, time in {**kept, **made}.items())
    # A finished study is reported again, and trains nothing.
    count = len(calls)
    assert run(tmp_path / "cut", root)["cells"] == whole["cells"] and len(calls) == count
    with pytest.raises(ConfigError, match="seed"):
        run(tmp_path / "cut", root, seed=1)
    for name in ("curve.png", "curve.pdf", "study.html", "study.json"):
        assert (tmp_path / "cut" / name).stat().st_size > 500
    page = (tmp_path / "cut" / "study.html").read_text(encoding="utf-8")
    assert resumed["finding"].replace("'", "&#x27;") in page or resumed["finding"] in page


def test_sides_that_share_a_session_are_refused(tmp_path, seen):
    with pytest.raises(DataError, match="session"):
        run(tmp_path / "study", write_arrays(tmp_path / "data", same_session=True))
    assert not seen


def test_latents_of_a_subset_hold_nothing_else_and_take_the_base_s_codec(tmp_path):
    draws = torch.Generator().manual_seed(0)

    def subset(num):
        images = torch.randint(256, (num, 1, 64, 64), generator=draws, dtype=torch.uint8)
        return LabelledImages(images, torch.arange(num) % 2)

    base, own = tmp_path / "base", tmp_path / "own"
    generator.write_latents(base, subset(8), [1, 2], None)
    generator.write_latents(own, few := subset(6), [3, 5], base)
    files = {s: generator.LatentFile(own / f"{s}.safetensors") for s in ("train", "val")}
    for file in files.values():
        assert len(file) == 6 and file.user_ids.tolist() == [3, 5] * 3 and file.shape == (32, 8, 8)
        assert file.info == generator.LatentFile(base / "train.safetensors").info
    codec = generator.LinearCodec.from_file(base / generator.LINEAR_CODEC_NAME)
    expected = codec.encode(few.images.expand(-1, 3, -1, -1))
    np.testing.assert_array_equal(files["train"].latents, expected.numpy())


@pytest.mark.slow
def test_the_command_goes_from_nothing_to_the_curve(tmp_path):
    words = "--users 2 --sessions 3 --per_session 4 --others 2 --width 64 --depth 1 --pretraining_steps 4"
    words += " --generator_steps 4 --sampling_steps 2 --cnn_steps 4 --num_seeds 2 --num_processes 1"
    assert cli.main(["microdoppler", "augment-study", str(tmp_path / "study"), *words.split()]) == 0
    report = json.loads((tmp_path / "study" / "study.json").read_text(encoding="utf-8"))
    assert {row["arm"] for row in report["cells"]} >= {"real", "real classical", "generated x4", "simulated x4"}
    samples = list((tmp_path / "study" / "generators").glob("n-*/samples.safetensors"))
    assert len(samples) == 3 and (tmp_path / "study" / "curve.png").is_file()
