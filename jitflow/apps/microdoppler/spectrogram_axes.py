"""Axes of spectrogram images: the time and velocity of their edges, and figures that show them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from jitflow.apps.microdoppler.gait import SpectrogramSettings
from jitflow.apps.microdoppler.gait.dataset import TRUTH_NAME
from jitflow.apps.microdoppler.physics import settings_from_mapping
from jitflow.errors import JitflowError
from jitflow.io.files import read_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
_PANEL_IN = 1.9
_COLUMNS = 4


@dataclass(frozen=True)
class SpectrogramAxes:
    """Axes of a spectrogram image. Time runs left to right, velocity bottom to top.

    Attributes:
        duration_sec: Time from the left edge to the right one.
        velocity_min_m_s: Radial velocity at the bottom edge.
        velocity_max_m_s: Radial velocity at the top edge.
    """

    duration_sec: float
    velocity_min_m_s: float
    velocity_max_m_s: float


def find_axes(folder: Path) -> SpectrogramAxes | None:
    """Find the axes of a folder of spectrogram images in its ``simulation.json``; None if they are unknown.

    Args:
        folder: Folder of the data set.
    """
    path = folder / TRUTH_NAME
    if not path.is_file():
        return None
    try:
        settings = settings_from_mapping(read_json(path))
    except (JitflowError, AttributeError, TypeError) as error:
        log.warning("%s: the axes of the spectrograms are unknown (%s)", path, error)
        return None
    return SpectrogramAxes(settings.duration_sec, settings.velocity_min_m_s, settings.velocity_max_m_s)


def show_spectrogram(panel: Axes, image: Tensor, axes: SpectrogramAxes | SpectrogramSettings | None) -> None:
    """Draw a spectrogram image with its axes.

    Args:
        panel: Axes of a figure.
        image: Shape ``(C, H, W)``, uint8; C is 1 or 3.
        axes: Time and velocity of the edges; None draws no ticks.
    """
    # Levels are coloured, which shows more of them than grey does.
    picture = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
    colours: dict[str, Any] = {"cmap": "viridis", "vmin": 0, "vmax": 255} if len(image) == 1 else {}
    if axes is None:
        panel.imshow(picture, aspect="auto", **colours)
        panel.set_xticks([])
        panel.set_yticks([])
        return
    edges = (0.0, axes.duration_sec, axes.velocity_min_m_s, axes.velocity_max_m_s)
    panel.imshow(picture, aspect="auto", extent=edges, **colours)


def axis_names(axes: SpectrogramAxes | SpectrogramSettings | None) -> tuple[str, str]:
    """Return the names of the time axis and the velocity axis of spectrograms, with units where these are known."""
    time, velocity = (" (s)", " (m/s)") if axes else ("", "")
    return f"time{time} \N{RIGHTWARDS ARROW}", f"velocity{velocity} \N{RIGHTWARDS ARROW}"


def new_figure(width: float, height: float) -> Figure:
    """Create a Matplotlib figure for spectrograms.

    Args:
        width: Width in inches.
        height: Height in inches.
    """
    # No display is needed, whatever backend the environment asks for.
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def draw_spectrograms(images: Tensor, captions: Sequence[str], axes: SpectrogramAxes | None) -> Image.Image:
    """Draw spectrograms in rows of four, each with its caption, with axes on the outer panels.

    Args:
        images: Shape ``(N, C, H, W)``, uint8.
        captions: Caption of each.
        axes: Time and velocity of the edges; None names the axes without numbers.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    columns = min(_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    figure = new_figure(_PANEL_IN * columns + 0.6, (_PANEL_IN + 0.2) * rows + 0.4)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    time, velocity = axis_names(axes)
    for i, panel in enumerate(panels):
        if i >= len(images):
            panel.set_axis_off()
            continue
        show_spectrogram(panel, images[i], axes)
        panel.set_title(captions[i], fontsize=10, parse_math=False)
        if i % columns == 0:
            panel.set_ylabel(velocity)
        else:
            panel.set_yticks([])
        if i + columns >= len(images):
            panel.set_xlabel(time)
        else:
            panel.set_xticks([])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
