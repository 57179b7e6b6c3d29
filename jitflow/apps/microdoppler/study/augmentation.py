"""Classical augmentation of spectrograms: shift, stretch and noise, never a flip.

A flip in time or in velocity would be another movement: the axes of a spectrogram have a direction.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

# Shares of the width and of the height; more stretch would be another cadence, more shift in velocity another pace.
_TIME_SHIFT, _VELOCITY_SHIFT, _TIME_STRETCH = 0.25, 0.02, 0.04
# Of the whole range of levels, which is [-1, 1].
_GAIN, _NOISE = 0.2, 0.06


def augment(levels: Tensor, draws: torch.Generator) -> Tensor:
    """Shift spectrograms in time and velocity, stretch their time, and change their gain and noise, at random.

    Args:
        levels: Shape ``(B, C, H, W)``, in ``[-1, 1]``; time to the right.
        draws: Random numbers, on the CPU.

    Returns:
        The same shape; what a shift uncovers is mirrored at the edge.
    """
    num = len(levels)

    def uniform(most: float) -> Tensor:
        return most * (2 * torch.rand(num, generator=draws) - 1)

    place = torch.zeros(num, 2, 3)
    place[:, 0, 0], place[:, 1, 1] = 1 + uniform(_TIME_STRETCH), 1.0
    # The coordinates of an image run from -1 to 1, so a share of its width is twice as much.
    place[:, 0, 2], place[:, 1, 2] = uniform(2 * _TIME_SHIFT), uniform(2 * _VELOCITY_SHIFT)
    grid = affine_grid(place, list(levels.shape), align_corners=False)
    moved = grid_sample(levels, grid, padding_mode="reflection", align_corners=False)
    noise = torch.randn(moved.shape, generator=draws) * (_NOISE * torch.rand(num, 1, 1, 1, generator=draws))
    return moved + noise + uniform(_GAIN)[:, None, None, None]
