"""Draw pictures for people: grids of images, plots of curves, heat maps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jitflow.io.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Pixels = np.ndarray
"""Images, shape ``(N, C, H, W)`` with C 1 or 3, or one image ``(C, H, W)``; uint8."""

# Readable both on paper and on a dark screen.
_BLUE, _ORANGE, _GREY = "#1f6fb4", "#e07b39", "#8a8f98"


def to_image(pixels: Pixels, *, scale: int = 1) -> Image.Image:
    """Convert an array of pixels to a Pillow image.

    Args:
        pixels: Shape ``(C, H, W)``, uint8; C is 1 or 3.
        scale: Whole factor by which pixels are repeated, for small images.

    Returns:
        The image, grey or RGB.
    """
    array = np.asarray(pixels, dtype=np.uint8).transpose(1, 2, 0)
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    return image if scale == 1 else image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def grid(
    pixels: Pixels,
    *,
    columns: int,
    scale: int = 1,
    gap_px: int = 2,
    background: int = 255,
    captions: Sequence[str] = (),
) -> Image.Image:
    """Arrange images in a grid, row by row.

    Args:
        pixels: Shape ``(N, C, H, W)``, uint8.
        columns: Images in a row.
        scale: Whole factor by which pixels are repeated.
        gap_px: Space between images, and around them.
        background: Grey value of the space.
        captions: Caption of each image, drawn above the first of equal ones in a row; none by default.

    Returns:
        One image; the last row may be shorter.
    """
    images = [to_image(p, scale=scale) for p in pixels]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    width, height = images[0].size
    font = caption_font(width)
    top_px = sum(font.getmetrics()) + gap_px if any(captions) else 0
    size = (columns * (width + gap_px) + gap_px, rows * (top_px + height + gap_px) + gap_px)
    canvas = Image.new(images[0].mode, size, background if images[0].mode == "L" else (background,) * 3)
    draw = ImageDraw.Draw(canvas)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        corner = (gap_px + column * (width + gap_px), gap_px + row * (top_px + height + gap_px))
        canvas.paste(image, (corner[0], corner[1] + top_px))
        if top_px and (column == 0 or captions[i] != captions[i - 1]):
            in_row = captions[i : (row + 1) * columns]
            alike = next((n for n, other in enumerate(in_row) if other != captions[i]), len(in_row))
            text = truncate(captions[i], font, alike * (width + gap_px) - gap_px)
            draw.text(corner, text, font=font, fill="black" if background > 127 else "white")
    return canvas


@cache
def caption_font(width_px: int) -> ImageFont.FreeTypeFont:
    """Return the font of captions of images of a width, in pixels: Matplotlib's, which has most alphabets."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), min(18, max(12, width_px // 12)))


def truncate(text: str, font: ImageFont.FreeTypeFont, width_px: float) -> str:
    """Truncate a caption to a width in pixels; dots stand for what is left out."""
    if font.getlength(text) <= width_px:
        return text
    kept = next((n for n in range(len(text) - 1, 0, -1) if font.getlength(f"{text[:n]}...") <= width_px), 0)
    return f"{text[:kept]}..." if kept else ""


def can_draw(text: str) -> bool:
    """Whether the font of captions has every letter of a text; not those of Chinese nor line breaks."""
    font = caption_font(0)
    missing = bytes(font.getmask("\uffff"))
    return text.isprintable() and all(c.isascii() or bytes(font.getmask(c)) != missing for c in set(text))


def display_scale(side_px: int, *, target_px: int = 64) -> int:
    """Whole factor that enlarges small images to about ``target_px`` a side; 1 for larger ones."""
    return max(1, target_px // side_px)


def save_image(image: Image.Image, path: str | Path) -> None:
    """Save an image as PNG, atomically."""
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def plot_losses(path: str | Path, losses: Sequence[float], *, title: str, name: str = "loss") -> None:
    """Plot the training loss of each optimiser step with its running mean.

    Args:
        path: Where to save the PNG.
        losses: Loss of each step, from the first.
        title: Title.
        name: Name of the loss, for the vertical axis.
    """
    num = len(losses)
    plot_curve(path, range(1, num + 1), losses, xlabel="optimiser step", ylabel=name, title=title, smooth=min(50, num))


def plot_curve(
    path: str | Path,
    x: Sequence[float],
    y: Sequence[float],
    *,
    xlabel: str,
    ylabel: str,
    title: str,
    smooth: int = 1,
    marks: Mapping[str, float] | None = None,
) -> None:
    """Plot a noisy curve with its running mean.

    Args:
        path: Where to save the PNG.
        x: Horizontal values.
        y: Vertical values, as many; plotted on a logarithmic axis if all are positive.
        xlabel: Name of the horizontal axis.
        ylabel: Name of the vertical axis.
        title: Title.
        smooth: Width of the running mean, in points; 1 for none.
        marks: Horizontal lines to draw, by name.
    """
    # No display is needed, whatever backend the environment asks for.
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    if smooth > 1:
        axes.plot(x, y, color=_GREY, alpha=0.4, linewidth=0.8, label="each step")
    else:
        axes.plot(x, y, color=_BLUE, linewidth=1.8)
    if smooth > 1 and len(y) >= smooth:
        mean = np.convolve(y, np.ones(smooth) / smooth, mode="valid")
        axes.plot(x[smooth - 1 :], mean, color=_BLUE, linewidth=1.8, label=f"mean of {smooth}")
    for name, value in (marks or {}).items():
        axes.axhline(value, color=_ORANGE, linestyle="--", linewidth=1.2, label=name)
    if min(y, default=0) > 0:
        axes.set_yscale("log")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title)
    axes.grid(alpha=0.25)
    if smooth > 1 or marks:
        axes.legend(frameon=False)
    write_literally(axes)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def write_literally(axes: Axes) -> None:
    """Write title, names and legend of a plot as they are: a dollar sign in the name of a metric begins no formula."""
    legend = axes.get_legend()
    names = legend.get_texts() if legend is not None else []
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts, *names):
        text.set_parse_math(False)


def heat_map(
    path: str | Path,
    values: Sequence[Sequence[float]],
    *,
    columns: Sequence[str],
    rows: Sequence[str],
    xlabel: str,
    title: str,
    framed: bool = True,
) -> None:
    """Draw a table of scores as a heat map with the numbers written in.

    Args:
        path: Where to save the PNG.
        values: The scores, one list for each row.
        columns: Names along the horizontal axis.
        rows: Names along the vertical axis.
        xlabel: Name of the horizontal axis.
        title: Title.
        framed: Frame the lowest score.
    """
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    table = np.asarray(values, dtype=float)
    size = (2.6 + 0.8 * len(columns) + 0.08 * max(map(len, rows)), 1.6 + 0.5 * len(rows))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = figure.subplots()
    # Scores span decades, so the colour scale is logarithmic.
    colours = np.log(np.maximum(table, 1e-12))
    axes.imshow(colours, cmap="viridis_r", aspect="auto")
    middle = (colours.min() + colours.max()) / 2
    for (row, column), value in np.ndenumerate(table):
        dark = colours[row, column] > middle
        axes.text(column, row, f"{value:.3g}", ha="center", va="center", color="white" if dark else "black", fontsize=9)
    if framed:
        row, column = np.unravel_index(table.argmin(), table.shape)
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=_ORANGE, linewidth=2.5))
    axes.set_xticks(range(len(columns)), columns, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, parse_math=False)
    axes.set_xlabel(xlabel)
    axes.set_title(title, fontsize=11)
    write_literally(axes)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def side_by_side(
    columns: Mapping[str, Sequence[Image.Image]], row_names: Sequence[str], *, gap_px: int = 6
) -> Image.Image:
    """Arrange images in a grid whose columns and rows have names, such as models and seeds.

    Args:
        columns: Images of each column by its name, one for each row; smaller ones are enlarged to the largest size.
        row_names: Name of each row, written on its left.
        gap_px: Space between images, and around them.

    Returns:
        One RGB image.
    """
    images = [image for column in columns.values() for image in column]
    width, height = (max(getattr(image, side) for image in images) for side in ("width", "height"))
    scale = display_scale(width, target_px=128)
    width, height = scale * width, scale * height
    font = caption_font(width)
    line_px = sum(font.getmetrics()) + gap_px
    left_px = round(max((font.getlength(name) for name in row_names), default=0)) + 2 * gap_px
    size = (left_px + len(columns) * (width + gap_px), line_px + gap_px + len(row_names) * (height + gap_px))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for row, name in enumerate(row_names):
        draw.text((gap_px, line_px + gap_px + row * (height + gap_px)), name, "black", font)
    for index, (name, column) in enumerate(columns.items()):
        x = left_px + index * (width + gap_px)
        draw.text((x, gap_px), truncate(name, font, width), "black", font)
        for row, image in enumerate(column):
            large = image.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
            canvas.paste(large, (x, line_px + gap_px + row * (height + gap_px)))
    return canvas
