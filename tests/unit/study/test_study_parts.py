"""Parts of the augmentation study: plan, subsets, augmentation, classifiers, sifting, intervals and the sentence."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from jitflow.apps.microdoppler.gait import Radar, SpectrogramSettings, Walk, Walker, simulate_image
from jitflow.apps.microdoppler.labelled_images import LabelledImages
from jitflow.apps.microdoppler.study.augmentation import augment
from jitflow.apps.microdoppler.study.classifiers import predict_users, spectrogram_features
from jitflow.apps.microdoppler.study.curve import Point, Results, draw_curves, interval_of_seeds
from jitflow.apps.microdoppler.study.plan import ALL, Arm, Cell, draw_subset, list_arms, plan_study
from jitflow.apps.microdoppler.study.report import finding_of, state_finding
from jitflow.apps.microdoppler.study.settings import NetworkOptions, StudyOptions, TrainingsOptions
from jitflow.apps.microdoppler.study.sift import accepted_samples, first_of_each
from jitflow.apps.microdoppler.study.work import join
from jitflow.errors import ConfigError, DataError
from jitflow.evaluation.intervals import Interval


def spectrograms(each=12, users=3, *, seed=0, noise=20.0):
    """Walks of users with other paces: bands of another height that swing at another rate, at any phase."""
    draws = np.random.default_rng(seed)
    images = np.empty((users * each, 1, 64, 64))
    time, velocity = np.linspace(0, 1, 64), np.linspace(1, 0, 64)[:, None]
    labels = np.repeat(np.arange(users), each)
    for image, user in zip(images, labels, strict=True):
        band = 0.3 + 0.15 * user + 0.1 * np.sin(2 * np.pi * ((3 + user) * time + draws.uniform()))
        image[0] = 200 * np.exp(-(((velocity - band) / 0.06) ** 2)) + noise * draws.standard_normal((64, 64))
    return LabelledImages(torch.from_numpy(images).clamp(0, 255).to(torch.uint8), torch.from_numpy(labels))


def test_every_arm_of_every_subset_and_seed_is_one_cell():
    arms = list_arms(full=False, simulator=True)
    replicates = plan_study([8, 9], ("CNN", "SVM"), arms, 2, full=False)
    cells = [cell for replicate in replicates for cell in replicate.cells]
    assert [(r.subset, r.seed) for r in replicates] == [("5", 0), ("5", 1), (ALL, 0), (ALL, 1)]
    assert len({cell.file_name for cell in cells}) == len(cells) == 2 * len(arms) * 4
    assert Arm("simulated", 4.0) not in list_arms(full=False, simulator=False)
    assert {arm.times for arm in list_arms(full=True, simulator=False)} == {0.0, 0.5, 1.0, 2.0, 4.0}
    # All training samples are one subset: its generator is trained once.
    assert [r.generator for r in replicates] == ["n-5-seed0", "n-5-seed1", "n-all", "n-all"]


def test_subsets_between_few_and_all_need_that_many_samples():
    def subsets(count):
        planned = plan_study([count, 40], ("CNN",), [Arm()], 2, full=True)
        return list(dict.fromkeys(r.subset for r in planned))

    assert subsets(12) == ["5", "10", ALL] and subsets(21) == ["5", "10", "20", ALL]
    with pytest.raises(DataError, match="5 training samples"):
        subsets(5)


def test_a_subset_has_as_many_of_each_user_and_grows():
    labels = np.repeat([0, 1, 2], [9, 12, 30])
    few, more = (set(draw_subset(labels, n, 3, 0).tolist()) for n in ("5", "7"))
    assert np.bincount(labels[sorted(few)]).tolist() == [5, 5, 5] and few < more
    assert set(draw_subset(labels, "5", 4, 0).tolist()) != few != set(draw_subset(labels, "5", 3, 1).tolist())
    assert draw_subset(labels, ALL, 0, 0).tolist() == list(range(51))


def test_augmentation_moves_and_never_mirrors():
    levels = torch.full((64, 1, 64, 64), -1.0)
    # A ramp in time and a line at one velocity: a flip of either axis would show.
    levels += torch.linspace(0, 0.5, 64)
    levels[:, :, 16] = 1.0
    changed = augment(levels, torch.Generator().manual_seed(0))
    assert changed.shape == levels.shape
    assert (changed.mean(3)[:, 0].argmax(1) - 16).abs().max() <= 2
    rows = changed[:, 0, 40:].mean(1)
    assert (rows[:, 40] > rows[:, 24]).all()
    assert not torch.equal(changed, augment(levels, torch.Generator().manual_seed(1)))
    assert torch.equal(changed, augment(levels, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(("kind", "steps"), [("CNN", 40), ("SVM", 1), ("ResNet-18", 1)])
def test_classifiers_learn_and_repeat(kind, steps):
    each = 2 if kind == "ResNet-18" else 12
    train, test = spectrograms(each), spectrograms(each // 2, seed=1)
    before = torch.random.get_rng_state()
    first, again = (
        predict_users(kind, train, test.images, 3, seed=2, num_steps=steps, classical=False) for _ in range(2)
    )
    assert torch.equal(first, again) and torch.equal(before, torch.random.get_rng_state())
    if kind != "ResNet-18":
        assert (first == test.labels).float().mean() >= 0.9
        augmented = predict_users(kind, train, test.images, 3, seed=2, num_steps=steps, classical=True)
        assert (augmented == test.labels).float().mean() >= 0.9


def test_features_do_not_depend_on_the_moment():
    levels = spectrograms(4, noise=0.0).images.float() / 127.5 - 1
    # Whole periods: rolling by a period's part changes nothing but the phase.
    features, later = spectrogram_features(levels), spectrogram_features(levels.roll(9, dims=3))
    assert features.shape == (12, 2 * 64 + 8 * 16)
    np.testing.assert_allclose(features, later, atol=1e-5)


def test_an_arm_adds_the_first_accepted_samples_of_each_user():
    real, pool = spectrograms(2), spectrograms(8, seed=1)
    accepted = torch.ones(24, dtype=torch.bool)
    accepted[0] = False
    accepted[17:24] = False
    plain, sifted = (join(real, pool, Arm("generated", 2.0, sifted=s), accepted) for s in (False, True))
    assert torch.bincount(plain.labels).tolist() == [6, 6, 6] and torch.bincount(sifted.labels).tolist() == [6, 6, 3]
    assert torch.equal(plain.images[:6], real.images) and torch.equal(plain.images[6:10], pool.images[:4])
    assert torch.equal(sifted.images[6:10], pool.images[1:5])
    assert torch.bincount(join(real, pool, Arm("generated", 0.5), accepted).labels).tolist() == [3, 3, 3]
    assert join(real, None, Arm(), accepted) is real
    assert first_of_each(pool.labels, [1, 0, 2]).tolist() == [0, 16, 17]


def test_the_critic_drops_samples_of_another_user():
    real, made = spectrograms(8), spectrograms(5, seed=3)
    wrong = LabelledImages(made.images, made.labels.roll(5))
    kept, dropped = (
        accepted_samples(samples, real, 3, critic_seed=0, trainings=TrainingsOptions(40), settings=None, span_db=40.0)
        for samples in (made, wrong)
    )
    assert kept.float().mean() >= 0.8 and dropped.float().mean() <= 0.2


def test_physics_drop_another_step_frequency():
    settings = SpectrogramSettings(height_px=64, width_px=64, colour_map="grey")

    def walks(speeds):
        images = []
        for i, factor in enumerate(speeds):
            walk = Walk(speed_factor=factor, initial_phase=0.13 * i, snr_db=25)
            for walker in (Walker(relative_velocity=1.0), Walker(relative_velocity=1.8)):
                images.append(torch.from_numpy(simulate_image(walker, walk, Radar(), settings)[None, ..., 0]))
        return LabelledImages(torch.stack(images), torch.tensor([0, 1] * len(speeds)))

    real = walks([1.0, 1.01, 0.99, 1.0])
    # The step frequency grows as the root of the speed.
    made = walks([1.02, 1.5])
    given = {"critic_seed": 0, "settings": settings, "span_db": 40.0}
    strict, lax = (
        accepted_samples(made, real, 2, trainings=TrainingsOptions(20, tolerance), **given) for tolerance in (0.1, 0.9)
    )
    assert lax[:2].any() and torch.equal(strict[:2], lax[:2]) and not strict[2:].any()


def test_the_interval_is_that_of_seeds_and_sessions_in_quadrature():
    right = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 1, 0]], float)
    found = interval_of_seeds(right, [0, 0, 1, 1])
    seeds, sessions = right.mean(1), np.array([right[:, :2].mean(), right[:, 2:].mean()])
    half = math.hypot(4.302653 * seeds.std(ddof=1) / math.sqrt(3), 12.7062 * sessions.std(ddof=1) / math.sqrt(2))
    assert found.value == pytest.approx(7 / 12)
    raw = interval_of_seeds(right / 100, [0, 0, 1, 1]).interval
    assert raw.high - 7 / 1200 == pytest.approx(half / 100, rel=1e-3)
    # Shares end at 0 and 1, differences at -1 and 1.
    assert (found.interval.low, found.interval.high) == (0.0, 1.0)
    assert interval_of_seeds(right, [0, 0, 1, 1], bounded=False).interval.low == -1.0
    same = interval_of_seeds(np.ones((3, 4)), [0, 1, 2, 3]).interval
    assert same.low == same.high == 1.0
    for bad in (right[:1], right):
        with pytest.raises(ConfigError, match="two"):
            interval_of_seeds(bad, [0, 0, 1, 1] if len(bad) == 1 else [0, 0, 0, 0])


def test_the_interval_covers_as_often_as_it_says():
    draws = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        chance = 0.6 + 0.1 * draws.standard_normal((5, 1)) + 0.1 * draws.standard_normal(10).repeat(8)
        right = draws.uniform(size=(5, 80)) < chance
        hits += 0.6 in interval_of_seeds(right, np.repeat(np.arange(10), 8)).interval
    assert 0.93 <= hits / 300 <= 1.0


def point(value, half):
    return Point(value, Interval(value - half, value + half))


@pytest.mark.parametrize(
    ("gain", "over", "words"),
    [
        (point(0.08, 0.03), point(0.04, 0.02), ("raises", "better than classical")),
        (point(0.08, 0.03), point(0.01, 0.02), ("raises", "cannot be told from classical")),
        (point(0.02, 0.03), point(-0.05, 0.02), ("does not reliably change", "worse than classical")),
        (point(-0.08, 0.03), point(-0.05, 0.02), ("lowers", "worse than classical")),
    ],
)
def test_the_sentence_says_what_the_numbers_say(gain, over, words):
    sentence = state_finding(point(0.5, 0.05), point(0.5 + gain.value, 0.05), gain, over, "5")
    assert all(word in sentence for word in words) and sentence.count(".") > 1
    assert sum(word in sentence for word in ("raises", "lowers", "does not reliably")) == 1
    assert f"50.0 to {50 + 100 * gain.value:.1f} %, {100 * gain.value:+.1f} points" in sentence


def test_results_are_compared_seed_by_seed(tmp_path):
    draws = np.random.default_rng(1)
    arms = [*list_arms(full=False, simulator=True)]
    results = {}
    for replicate in plan_study([9, 9], ("CNN", "SVM"), arms, 3, full=False):
        easy = draws.uniform(size=40) < 0.7
        for cell in replicate.cells:
            # Generated samples make four of forty right that were wrong, whatever the seed.
            better = np.where(np.arange(40) % 10 == 0, True, easy) if cell.arm.source == "generated" else easy
            accepted = 0.5 if cell.arm.sifted else None
            results[cell] = {"right": better.astype(int).tolist(), "accepted": accepted}
    found = Results(results, np.repeat(np.arange(8), 5).tolist())
    gain = found.gain("CNN", "5", Arm("generated", 4.0), Arm())
    expected = found.right("CNN", "5", Arm("generated", 4.0)).mean() - found.right("CNN", "5", Arm()).mean()
    assert gain.value == pytest.approx(expected) and 0 < gain.value <= 0.1
    assert found.gain("CNN", "5", Arm(classical=True), Arm()).interval.record()["high"] == 0.0
    assert found.accepted("5") == 0.5 and found.accepted(ALL) == 0.5
    assert f"{100 * gain.value:+.1f} points" in finding_of(found, "5")
    draw_curves(tmp_path / "curve.png", found)
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG" and (tmp_path / "curve.pdf").stat().st_size > 1000


def test_settings_that_cannot_work_are_refused():
    for make, name in (
        (lambda: StudyOptions(num_seeds=1), "num_seeds"),
        (lambda: StudyOptions(others_dir="x"), "data_dir"),
        (lambda: NetworkOptions(width=100), "width"),
        (lambda: NetworkOptions(generator_steps=0), "generator_steps"),
    ):
        with pytest.raises(ConfigError, match=name):
            make()


def test_a_cell_is_named_by_all_that_it_is():
    cell = Cell("CNN", "5", Arm("generated", 0.5, sifted=True), 1)
    assert cell.file_name == "CNN-n5-generated-x0.5-sifted-seed1.json"
    for change in ({"classifier": "SVM"}, {"subset": ALL}, {"seed": 2}, {"arm": Arm("generated", 0.5)}):
        assert dataclasses.replace(cell, **change).file_name != cell.file_name
