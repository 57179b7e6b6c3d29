"""Transfer scores: how well a classifier trained on generated images names the users of real ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from jitflow.apps.microdoppler.identity import OnProgress, train_classifier
from jitflow.apps.microdoppler.labelled_images import LabelledImages, check_labels


class TransferScores(NamedTuple):
    """Accuracy of classifiers on held-out real images after training on synthetic or on real images.

    Attributes:
        tstr: Accuracy after training on synthetic images (train on synthetic, test on real).
        trtr: Accuracy after training on real images (train on real, test on real).
        num_train: Images in each of the two training sets.
        num_test: Real test images of both.
        tstr_right: Whether each test image's user is named rightly after training on generated images, ``(num_test,)``.
    """

    tstr: float
    trtr: float
    num_train: int
    num_test: int
    tstr_right: Tensor


def tstr_trtr(
    synthetic: LabelledImages,
    real_train: LabelledImages,
    real_val: LabelledImages,
    num_users: int,
    *,
    seed: int = 0,
    num_steps: int | None = None,
    on_progress: OnProgress | None = None,
) -> TransferScores:
    """Compare generated and real images as training data of a user classifier (TSTR and TRTR accuracy).

    Two classifiers, one trained on synthetic images and one on real ones, predict the users of real held-out images.
    Both get equally many images of each user (the smaller of the two numbers, drawn from the seed), the same network,
    steps and seed, so that only the images differ.

    Args:
        synthetic: Generated images, with the users they were made for; labels lie in ``[0, num_users)``.
        real_train: Real training images.
        real_val: Real images that neither the generator nor the classifiers have seen.
        num_users: Number of users, at least 2.
        seed: Seed of the selection of images and of both trainings.
        num_steps: As in :func:`train_classifier`.
        on_progress: Called with (steps done, total steps of both trainings).

    Returns:
        Both accuracies and the sizes of the sets.

    Raises:
        ConfigError: If an argument is invalid.
        DataError: If a user lacks images in a training set.
    """
    for images in (synthetic, real_train, real_val):
        check_labels(*images, num_users)
    counts = torch.minimum(
        torch.bincount(synthetic.labels, minlength=num_users), torch.bincount(real_train.labels, minlength=num_users)
    )

    def right(train: LabelledImages, index: int) -> Tensor:
        chosen = draw_per_user(train.labels, counts, seed)

        def on_step(done: int, total: int) -> None:
            if on_progress:
                on_progress(done + index * total, 2 * total)

        classifier = train_classifier(
            train.images[chosen],
            train.labels[chosen],
            num_users,
            seed=seed,
            num_steps=num_steps,
            on_progress=on_step,
        )
        return classifier.predict(real_val.images) == real_val.labels

    tstr_right, trtr_right = right(synthetic, 0), right(real_train, 1)
    tstr, trtr = (float(right.double().mean()) for right in (tstr_right, trtr_right))
    return TransferScores(tstr, trtr, int(counts.sum()), len(real_val.images), tstr_right)


def draw_per_user(labels: Tensor, counts: Tensor, seed: int) -> Tensor:
    """Draw the indices of ``counts[k]`` images of each user k.

    Args:
        labels: User of each image, shape ``(N,)``.
        counts: How many to draw, shape ``(K,)``.
        seed: Seed of the draw.

    Returns:
        Indices of the images, ascending.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    chosen = [shuffled[labels[shuffled] == user][: int(count)] for user, count in enumerate(counts)]
    return torch.cat(chosen).sort().values
