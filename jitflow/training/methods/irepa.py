"""iREPA: alignment through a convolution, to features that are standardised over space.

Shapes: B batch, N tokens of h x w places, D width, E features of the encoder.
"""

from __future__ import annotations

from torch import Tensor, nn

from jitflow.training.methods.alignment import Alignment, normalise_over_space
from jitflow.training.terms import FlowState


class IRepa(Alignment):
    """iREPA: the projector is one 3 x 3 convolution, which keeps neighbours together, and targets lose their mean.

    The release reads JiT-B's tokens after block 4.

    References:
        Singh et al. 2025, arXiv:2512.10794.
    """

    name = "irepa"
    own_feature, own_weight = "block4", 0.5

    def make_projector(self, width: int, num_features: int) -> nn.Module:
        """Create the convolution."""
        return nn.Conv2d(width, num_features, 3, padding=1)

    def project(self, tokens: Tensor, state: FlowState) -> Tensor:
        """Convolve the tokens ``(B, N, D)`` on their grid to ``(B, N, E)``."""
        projected: Tensor = self.projector(tokens.mT.unflatten(2, self._grid))
        return projected.flatten(2).mT

    def normalise(self, target: Tensor) -> Tensor:
        """Standardise the encoder's features ``(B, N, E)`` over the tokens."""
        return normalise_over_space(target)
