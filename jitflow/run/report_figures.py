"""Figures of a run's report: images inside the HTML page."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import Any

from PIL import Image

from jitflow.data.image_file import UNREADABLE, decoder_of, reading_error
from jitflow.io.html_page import html_figure

# Modes that a page shows as they are; all others become colours.
_MODES = {mode: mode for mode in ("1", "L", "LA", "P", "RGB", "RGBA")}


def figure_of_file(path: Path, caption: str, *, max_width_px: int = 1200, max_png_bytes: int = 400_000) -> str:
    """Return the markup of an image file as a figure; of a damaged one, a paragraph that says so.

    Args:
        path: The image.
        caption: Its caption.
        max_width_px: A wider image is scaled down.
        max_png_bytes: A larger PNG is embedded as JPEG, so that the page opens quickly.
    """
    try:
        with decoder_of(path) as image:
            image.load()
            image.thumbnail((max_width_px, 4 * max_width_px))
            small = image.convert(_MODES.get(image.mode, "RGB"))
        data = _encoded(small, "PNG")
    except UNREADABLE as error:
        return f"<p>{html.escape(f'{path.name} cannot be read ({reading_error(error)})')}</p>"
    if len(data) > max_png_bytes:
        data = _encoded(small.convert("RGB"), "JPEG", quality=88)
    return html_figure(data, caption, wide=small.width > 2 * small.height or small.width >= 900)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()
