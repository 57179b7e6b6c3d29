"""A judge that tells walkers apart, learns nothing from noise, and is the same every time."""

import pytest
import torch

from jitflow.apps.microdoppler.identity import confusion_matrix, train_classifier
from jitflow.apps.microdoppler.labelled_images import LabelledImages, check_labels
from jitflow.apps.microdoppler.transfer import draw_per_user, tstr_trtr
from jitflow.errors import ConfigError, DataError

STEPS = 60


def stripes(labels, *, seed=0, side=64, channels=3):
    """Pictures whose pulses come faster the higher the label, at a phase of their own, with noise."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(side) / side
    phase = torch.rand(len(labels), 1, generator=generator)
    wave = torch.sin(2 * torch.pi * ((3 + 1.5 * labels[:, None]) * time + phase))
    heights = torch.linspace(0.2, 1, side)[:, None]
    pictures = 110 + 90 * wave[:, None, None, :] * heights
    noise = 15 * torch.randn(len(labels), channels, side, side, generator=generator)
    return (pictures + noise).clamp(0, 255).to(torch.uint8)


def labelled(count, *, users=3, **more):
    labels = torch.arange(users).repeat_interleave(count)
    return stripes(labels, **more), labels


@pytest.fixture(scope="module")
def judge():
    return train_classifier(*labelled(20), 3, num_steps=STEPS)


def test_users_that_differ_in_pace_alone_are_told_apart(judge):
    images, labels = labelled(20, seed=1)
    assert judge.accuracy(images, labels) > 0.95
    assert judge.features(images).shape == (60, judge.dim)
    assert torch.equal(judge.confusion(images, labels), confusion_matrix(labels, judge.predict(images), 3))


def test_permuted_labels_are_at_the_level_that_the_permutation_says(judge):
    images, labels = labelled(20, seed=1)
    right = judge.accuracy(images, labels)
    assert judge.accuracy(images, (labels + 1) % 3) <= 1 - right
    shuffled = labels[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    assert judge.accuracy(images, shuffled) == pytest.approx(1 / 3, abs=0.2)


def test_an_answer_does_not_depend_on_the_other_images_nor_on_the_size(judge, monkeypatch):
    images, _ = labelled(6, seed=2)
    features = judge.features(images)
    monkeypatch.setattr("jitflow.apps.microdoppler.identity.CHUNK_IMAGES", 5)
    assert torch.allclose(judge.features(images), features, atol=1e-5)
    larger = images.repeat_interleave(2, dim=2).repeat_interleave(3, dim=3)
    assert torch.allclose(judge.features(larger), features, atol=1e-5)


def test_a_seed_names_a_network_and_the_program_keeps_its_generator_and_threads(judge):
    images, labels = labelled(20)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    threads = torch.get_num_threads()
    again = train_classifier(images, labels, 3, num_steps=STEPS)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert torch.equal(again.features(images), judge.features(images))
    other = train_classifier(images, labels, 3, num_steps=STEPS, seed=1)
    assert not torch.allclose(other.features(images), judge.features(images))


def test_grey_images_are_looked_at_as_colour_ones():
    images, labels = labelled(8, channels=1)
    judge = train_classifier(images, labels, 3, num_steps=5)
    assert torch.equal(judge.features(images), judge.features(images.repeat(1, 3, 1, 1)))


def test_constant_images_give_numbers():
    labels = torch.arange(2).repeat(4)
    judge = train_classifier(torch.full((8, 3, 16, 16), 7, dtype=torch.uint8), labels, 2, num_steps=3)
    assert judge.features(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).isfinite().all()


def test_training_sees_where_a_picture_is_cut_at_random_but_never_mirrored():
    from jitflow.apps.microdoppler.identity import CROP_PX, crop_in_time

    ramp = torch.arange(64, dtype=torch.uint8).expand(200, 3, 64, 64)
    crops = crop_in_time(ramp, torch.Generator().manual_seed(0))
    assert crops.shape == (200, 3, 64, CROP_PX)
    assert (crops.long().diff(dim=3) == 1).all()
    assert set(crops[:, 0, 0, 0].tolist()) == set(range(64 - CROP_PX + 1))


def test_progress_counts_the_steps_and_their_number_goes_with_the_images():
    images, labels = labelled(4)
    seen = []
    train_classifier(images, labels, 3, num_steps=4, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    class Enough(Exception):
        pass

    def first(done, total):
        raise Enough(total)

    for count, steps in ((4, 300), (400, 750)):
        with pytest.raises(Enough, match=str(steps)):
            train_classifier(*labelled(count), 3, on_progress=first)


def test_good_synthetic_images_teach_as_much_as_real_ones_and_mislabelled_ones_nothing():
    train, val, made = (LabelledImages(*labelled(count, seed=seed)) for count, seed in ((20, 0), (20, 1), (12, 2)))
    seen = []
    good = tstr_trtr(made, train, val, 3, num_steps=STEPS, on_progress=lambda *progress: seen.append(progress))
    assert good.tstr > 0.9
    assert good.trtr > 0.9
    # As many images of each user as there are in the smaller set.
    assert (good.num_train, good.num_test) == (36, 60)
    assert seen == [(i + 1, 2 * STEPS) for i in range(2 * STEPS)]
    bad = tstr_trtr(LabelledImages(made.images, (made.labels + 1) % 3), train, val, 3, num_steps=STEPS)
    assert bad.tstr < 0.1
    assert bad.trtr == good.trtr


def test_both_sides_of_the_comparison_get_the_same(monkeypatch):
    from jitflow.apps.microdoppler import transfer

    given = []
    original = transfer.train_classifier

    def spy(images, labels, num_users, **more):
        given.append((images, labels, more["seed"], more["num_steps"]))
        return original(images, labels, num_users, **more)

    monkeypatch.setattr(transfer, "train_classifier", spy)
    images, labels = labelled(10)
    # User 0 is scarce in one set, user 2 in the other.
    synthetic, real = torch.arange(4, 30), torch.arange(0, 25)
    made, train = (LabelledImages(images[chosen], labels[chosen]) for chosen in (synthetic, real))
    tstr_trtr(made, train, LabelledImages(images, labels), 3, seed=3, num_steps=2)
    assert [torch.bincount(used).tolist() for _, used, _, _ in given] == [[6, 10, 5], [6, 10, 5]]
    assert [(seed, steps) for _, _, seed, steps in given] == [(3, 2), (3, 2)]
    for chosen, own, _, _ in given:
        # Each picture keeps its label, and none is taken twice.
        where = [int((images == image).flatten(1).all(dim=1).nonzero()) for image in chosen]
        assert labels[where].tolist() == own.tolist()
        assert len(set(where)) == len(where)
    # The smaller numbers of user 0 and 2 are all there are; user 1 has ten in both.
    drawn = draw_per_user(labels, torch.tensor([3, 0, 4]), 0)
    assert labels[drawn].tolist() == [0] * 3 + [2] * 4
    assert not torch.equal(drawn, draw_per_user(labels, torch.tensor([3, 0, 4]), 1))


def test_confusion_counts_by_true_row_and_named_column():
    counts = confusion_matrix(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 2, 1, 1]), 3)
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (torch.tensor([0, 1, 2, 3]), r"labels must lie in \[0, 3\); got 0 to 3"),
        (torch.tensor([0, -1, 2, 1]), "got -1 to 2"),
        (torch.tensor([0, 1, 2]), r"shape \(4,\), one for each image"),
        (torch.tensor([0.0, 1, 2, 1]), "float32"),
    ],
)
def test_labels_that_do_not_fit(labels, match):
    with pytest.raises(ConfigError, match=match):
        check_labels(stripes(torch.zeros(4)), labels, 3)


def test_bad_arguments(judge):
    images, labels = labelled(2)
    with pytest.raises(DataError, match="no images with the label 1, 3"):
        train_classifier(images[[0, 4]], torch.tensor([0, 2]), 4)
    with pytest.raises(ConfigError, match="at least 2"):
        train_classifier(images, labels * 0, 1)
    with pytest.raises(ConfigError, match="num_steps"):
        train_classifier(images, labels, 3, num_steps=0)
    with pytest.raises(ConfigError, match="uint8"):
        train_classifier(images.float(), labels, 3)
    with pytest.raises(DataError, match="no images"):
        judge.accuracy(images[:0], labels[:0])
