"""Report of a spectrogram evaluation: score table, real and generated images side by side, confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from torch import Tensor

from jitflow.apps.microdoppler.gait import SpectrogramSettings
from jitflow.apps.microdoppler.image_scores import ImageEvaluation
from jitflow.apps.microdoppler.labelled_images import ImageSets
from jitflow.apps.microdoppler.spectrogram_axes import SpectrogramAxes, axis_names, new_figure, show_spectrogram
from jitflow.evaluation.memorisation import draw_pairs
from jitflow.evaluation.report import score_table
from jitflow.io.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IMAGES_NAME, CONFUSION_NAME, PAIRS_NAME = "real_and_generated.png", "confusion.png", "nearest_pairs.png"
_SHOWN_PER_USER = 3
# Shares shown for generated and real images, by their name in the table.
_SHARES = {
    "identity accuracy": "identity_accuracy",
    "step frequency within 5 %": "step_frequency_within_5_percent",
    "torso velocity within 5 %": "torso_velocity_within_5_percent",
}
_PANEL_IN = 1.9
# Above this, numbers in the cells would be too small to read.
_MAX_NUMBERED = 12
_ORANGE = "#b3541e"


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Print the scores of an evaluation as a table, and each user's below.

    Args:
        report: Report of :func:`~jitflow.apps.microdoppler.image_scores.evaluate_images`.
        console: The console.
    """
    table = Table("", "generated", "real", title=f"{report['num_generated']} generated images")
    for name, key in _SHARES.items():
        table.add_row(name, _share(report[key]), _share(report[f"{key}_real"]))
    if report.get("random_split_accuracy") is not None:
        table.add_row("identity accuracy on a random split", "", _share(report["random_split_accuracy"]))
    table.add_row("trained on these, right on real", _share(report["tstr_accuracy"]), _share(report["trtr_accuracy"]))
    for space in ("pixels", "features"):
        table.add_row(f"variety within a user, {space}", _number(report[f"diversity_{space}_ratio"]), "1")
        table.add_row("  of the least varied user", _number(report[f"diversity_{space}_ratio_lowest"]), "1")
    near, near_real = (_number(report[f"nearest_train_median{suffix}"]) for suffix in ("", "_real"))
    table.add_row("nearest training image, grey levels", near, near_real)
    table.add_row("share of copies", _share(report["nearest_train_copies"]), "1.0 %")
    if report["codec_psnr_db"] is not None:
        table.add_row("the codec's reconstruction, PSNR", "", f"{report['codec_psnr_db']:.1f} dB")
    console.print(table)
    console.print(
        f"'trained on these': {report['transfer_train_images']} images on either side, as many of each user; all "
        f"tests on real images use {report['num_real_val']} held-out ones"
    )
    if report["physics_skipped"]:
        console.print(f"gait not read: {report['physics_skipped']}")
    else:
        console.print(f"the users' own gait: {report['truth_source']}")
    console.print(_user_table(report["users"]))
    if "metrics" in report:
        console.print(score_table(report))


def _user_table(users: Sequence[Mapping[str, Any]]) -> Table:
    """Build the table of each user's scores, narrow enough for 80 columns."""
    gait = "step_frequency_hz" in users[0]
    table = Table(title="each user: median of generated images, the user's own, share near it" if gait else "each user")
    headings = ["user", "identity", "real"] + (["steps/s", "own", "5 %", "torso m/s", "own", "5 %"] if gait else [])
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for user in users:
        cells = [str(user["user_id"]), _percent(user["identity_accuracy"]), _percent(user["identity_accuracy_real"])]
        for value, share in (
            ("step_frequency_hz", "step_frequency_within_5_percent"),
            ("torso_velocity_m_s", "torso_velocity_within_5_percent"),
        ):
            if gait:
                cells += [_number(user[f"{value}_generated"]), _number(user[value]), _percent(user[share])]
        table.add_row(*cells)
    return table


def save_pictures(
    folder: str | Path,
    report: Mapping[str, Any],
    sets: ImageSets,
    *,
    settings: SpectrogramSettings | SpectrogramAxes | None = None,
) -> None:
    """Save ``real_and_generated.png``, the first images of each user in order, and ``confusion.png``.

    Args:
        folder: Target folder.
        report: Report of :func:`~jitflow.apps.microdoppler.image_scores.evaluate_images` for these images.
        sets: The images.
        settings: Axes of the images, if known.
    """
    user_ids = [user["user_id"] for user in report["users"]]
    generated, real = sets.generated, sets.real_val
    shown = [(generated.labels == label).nonzero()[:_SHOWN_PER_USER, 0] for label in range(len(user_ids))]
    draw_real_and_generated(
        Path(folder) / IMAGES_NAME,
        [real.images[real.labels == label][:_SHOWN_PER_USER] for label in range(len(user_ids))],
        [generated.images[index] for index in shown],
        user_ids=user_ids,
        taken_for=[[user_ids[report["predicted"][i]] for i in index.tolist()] for index in shown],
        settings=settings,
    )
    draw_confusion(
        Path(folder) / CONFUSION_NAME,
        {
            f"generated images: {_share(report['identity_accuracy'])} right": report["confusion"],
            f"real held-out images: {_share(report['identity_accuracy_real'])} right": report["confusion_real"],
        },
        user_ids=user_ids,
    )


def save_pairs(folder: str | Path, sets: ImageSets, evaluation: ImageEvaluation) -> None:
    """Save ``nearest_pairs.png``: the generated images nearest to training images, above those.

    Args:
        folder: Target folder.
        sets: The images.
        evaluation: Their evaluation.
    """
    chosen = evaluation.copies.nearest()
    nearest = evaluation.nearest_train.indices[chosen, 0]
    captions = [
        f"user {sets.user_ids[int(sets.generated.labels[i])]}, {evaluation.copies.nearness[i]:.1f} grey levels"
        for i in chosen
    ]
    draw_pairs(Path(folder) / PAIRS_NAME, sets.generated.images[chosen], sets.real_train.images[nearest], captions)


def draw_real_and_generated(
    path: str | Path,
    real: Sequence[Tensor],
    generated: Sequence[Tensor],
    *,
    user_ids: Sequence[int],
    taken_for: Sequence[Sequence[int]],
    settings: SpectrogramSettings | SpectrogramAxes | None = None,
) -> None:
    """Draw a row for each user: real images on the left, generated ones on the right.

    Args:
        path: Where to save the PNG.
        real: For each user, images ``(N, C, H, W)``, uint8; N may differ.
        generated: The same for generated images.
        user_ids: Ids of the users, in the same order.
        taken_for: For each user, the predicted user id of each generated image; written on misclassified images.
        settings: Axes of the images, for tick labels; None omits the labels.
    """
    left, right = max(map(len, real)), max(map(len, generated))
    num_rows, widths = len(user_ids), [*[1.0] * left, 0.12, *[1.0] * right]
    figure = new_figure(_PANEL_IN * sum(widths) + 1.0, _PANEL_IN * num_rows + 0.9)
    grid = figure.add_gridspec(num_rows, len(widths), width_ratios=widths)
    middle = {0: "real, held out", left + 1: "generated"}
    time, velocity = axis_names(settings)
    for row, user_id in enumerate(user_ids):
        for column in range(len(widths)):
            if column == left:
                continue
            images = real[row] if column < left else generated[row]
            index = column if column < left else column - left - 1
            if index >= len(images):
                continue
            axes = figure.add_subplot(grid[row, column])
            show_spectrogram(axes, images[index], settings)
            if row == 0 and column in middle:
                axes.set_title(middle[column], loc="left", fontsize=12)
            if column > left and taken_for[row][index] != user_id:
                _note(axes, f"taken for user {taken_for[row][index]}")
            if column == 0:
                axes.set_ylabel(f"user {user_id}\n{velocity}")
            if column != 0:
                axes.set_yticks([])
            if row == num_rows - 1:
                axes.set_xlabel(time)
            else:
                axes.set_xticks([])
    _save(figure, path)


def draw_confusion(path: str | Path, panels: dict[str, Any], *, user_ids: Sequence[int]) -> None:
    """Draw confusion matrices, a panel for each set of images.

    Args:
        path: Where to save the PNG.
        panels: Counts by title, each ``(K, K)``: rows are true users, columns predicted ones.
        user_ids: Ids of the users, in the same order.
    """
    num = len(user_ids)
    side = max(3.2, 0.32 * num + 1)
    figure = new_figure(len(panels) * side + 1.2, side + 0.6)
    shown = None
    everyone = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, counts) in zip(everyone, panels.items(), strict=True):
        counts = np.asarray(counts, dtype=float)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        if num <= _MAX_NUMBERED:
            for (row, column), share in np.ndenumerate(shares):
                if share:
                    colour = "white" if share > 0.5 else "black"
                    axes.text(column, row, f"{share:.0%}", ha="center", va="center", color=colour, fontsize=9)
        axes.set_xticks(range(num), [str(i) for i in user_ids], fontsize=9 if num <= _MAX_NUMBERED else 6)
        axes.set_yticks(range(num), [str(i) for i in user_ids], fontsize=9 if num <= _MAX_NUMBERED else 6)
        axes.set_xlabel("taken for user")
        axes.set_ylabel("user")
        axes.set_title(title, fontsize=11)
    if shown is not None:
        figure.colorbar(shown, ax=list(everyone), label="share of the user's images", shrink=0.8)
    _save(figure, path)


def _note(axes: Axes, text: str) -> None:
    box = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1.5}
    axes.text(0.03, 0.96, text, transform=axes.transAxes, va="top", fontsize=8, color=_ORANGE, bbox=box)


def _save(figure: Figure, path: str | Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"
