"""Picture of a converted radar recording: where the moving echoes were, and the spectrogram with its windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from jitflow.apps.microdoppler.recordings.transform import RecordingSpectrogram
from jitflow.apps.microdoppler.spectrogram_axes import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

# Levels below the highest one that are shown.
_SHOWN_DB = 45.0


def draw_recording(found: RecordingSpectrogram, windows: Sequence[slice], title: str) -> Image.Image:
    """Draw a recording: range over time with the range gate, if there is range, and velocity over time.

    Args:
        found: The spectrogram of the whole recording.
        windows: Columns of each window, whose edges are marked.
        title: Title.

    Returns:
        An RGB image.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    has_range = len(found.range_m) > 1
    figure = new_figure(8, 6 if has_range else 3.6)
    panels = figure.subplots(2 if has_range else 1, 1, sharex=True, squeeze=False)[:, 0]
    half = found.hop_sec / 2
    left, right = found.time_sec[0] - half, found.time_sec[-1] + half
    if has_range:
        step = (found.range_m[1] - found.range_m[0]) / 2
        _draw(panels[0], found.range_db, (left, right, found.range_m[0] - step, found.range_m[-1] + step))
        for edge in found.gate_m:
            panels[0].plot(found.time_sec, edge, color="white", linewidth=0.8)
        panels[0].set_ylabel("range (m)")
    step = (found.velocity_m_s[1] - found.velocity_m_s[0]) / 2
    edges = (left, right, found.velocity_m_s[0] - step, found.velocity_m_s[-1] + step)
    drawn = _draw(panels[-1], found.level_db, edges)
    for window in windows:
        panels[-1].axvline(found.time_sec[window.start] - half, color="white", linewidth=0.5)
    panels[-1].set_ylabel("velocity (m/s)")
    panels[-1].set_xlabel("time (s)")
    panels[0].set_title(title, fontsize=10, parse_math=False)
    figure.colorbar(drawn, ax=panels[-1], label="dB")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _draw(panel: Axes, level_db: np.ndarray, edges: tuple[float, float, float, float]) -> AxesImage:
    top = float(level_db.max())
    limits = (top - _SHOWN_DB, top)
    return panel.imshow(level_db, origin="lower", aspect="auto", extent=edges, cmap="viridis", clim=limits)
