"""Colour maps of spectrogram pictures: recognise the map of a picture, and recover the levels that it coloured."""

from __future__ import annotations

import functools

import numpy as np

MATLAB_JET = "matlab_jet"
COLOUR_MAPS = (
    "grey", "viridis", "jet", MATLAB_JET, "turbo", "hot", "inferno", "magma", "plasma", "cividis", "bone",
)  # fmt: skip
"""Colour maps that are known; OpenCV's JET is MATLAB's, which differs from Matplotlib's."""
# Largest distance in RGB (of 255) of a share of the pixels from their map: resizing mixes neighbouring levels and JPEG
# smears colours. Simulated walks at half the size by JPEG of quality 90 stay below (8, 37, 97); photographs are above
# 15 in the first, and a white frame is above 150 in the last. Among maps that fit, the nearest in the mean is taken.
_DISTANCES = {0.5: 9.0, 0.8: 45.0, 0.98: 110.0}
# A map that fits is taken only if it uses at least this share of its levels: every map has dark pixels in it.
_LEAST_SPAN = 0.2
_LOOKED_AT = 4096


@functools.cache
def colour_table(name: str) -> np.ndarray:
    """Return the colours of the 256 levels of a colour map, shape ``(256, 3)``, uint8.

    Args:
        name: One of ``COLOUR_MAPS``.
    """
    level = np.linspace(0, 1, 256)
    if name == "grey":
        return np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    if name == MATLAB_JET:
        # Trapezoids of height 1 around 3/4, 1/2 and 1/4.
        channels = [np.clip(1.5 - 4 * abs(level - centre), 0, 1) for centre in (0.75, 0.5, 0.25)]
        return np.round(255 * np.stack(channels, axis=1)).astype(np.uint8)
    import matplotlib

    return np.asarray(matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3])


def recognise_colour_map(picture: np.ndarray) -> str | None:
    """Name the colour map of a spectrogram picture.

    Args:
        picture: Shape ``(H, W, 3)``, uint8.

    Returns:
        The name of the map that nearly all pixels lie on; None if there is none, as in a photograph or a figure with
        axes drawn in, or if the picture is all of one colour.
    """
    pixels = picture.reshape(-1, 3)
    pixels = pixels[:: max(1, len(pixels) // _LOOKED_AT)]
    if (pixels.max(axis=1) - pixels.min(axis=1)).max(initial=0) <= 2:
        return "grey" if np.ptp(pixels[:, 0]) > 2 else None
    best, least = None, np.inf
    for name in COLOUR_MAPS[1:]:
        index, distance = _nearest(pixels, name)
        spans = np.ptp(np.quantile(index, (0.01, 0.99))) >= 255 * _LEAST_SPAN
        is_near = all(np.quantile(distance, share) <= most for share, most in _DISTANCES.items())
        if spans and is_near and distance.mean() < least:
            best, least = name, float(distance.mean())
    return best


def levels_of_colours(picture: np.ndarray, name: str) -> np.ndarray:
    """Recover the levels of a coloured spectrogram: each pixel's nearest colour of the map.

    Args:
        picture: Shape ``(H, W, 3)``, uint8.
        name: Name of the colour map.

    Returns:
        Levels in ``[0, 1]``, shape ``(H, W)``, float32; exact for a picture that was neither resized nor compressed
        with loss, in a map of 256 different colours.
    """
    # Most pictures have few colours, so each is looked up once.
    packed = picture.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    colours, where = np.unique(packed, return_inverse=True)
    unpacked = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1).astype(np.uint8)
    index, _ = _nearest(unpacked, name)
    return (index[where].reshape(picture.shape[:2]) / 255).astype(np.float32)


def _nearest(pixels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest level of a map for each pixel ``(N, 3)``, and its distance in RGB."""
    table = colour_table(name).astype(np.float32)
    index = np.empty(len(pixels), dtype=np.int64)
    distance = np.empty(len(pixels), dtype=np.float32)
    for first in range(0, len(pixels), 8192):
        part = pixels[first : first + 8192].astype(np.float32)
        squares = (part**2).sum(1)[:, None] - 2 * part @ table.T + (table**2).sum(1)
        index[first : first + 8192] = squares.argmin(1)
        distance[first : first + 8192] = np.sqrt(squares.min(1).clip(0))
    return index, distance
