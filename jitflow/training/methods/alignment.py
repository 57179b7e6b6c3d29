"""Representation alignment: inner tokens of the network, projected, follow a frozen encoder's features of the image.

Shapes: B batch, N tokens, D width, E features of the encoder.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from jitflow.encoders.maps import MapEncoder, resize_maps
from jitflow.errors import ConfigError
from jitflow.training.loss import FlowLoss
from jitflow.training.methods.encoders import check_pixels, make_encoder
from jitflow.training.terms import FlowState, FrozenEncoder, LossModule


class Alignment(LossModule):
    """Base class of alignment losses: ``1 - mean cosine(projector(tokens), encoder(x1))``.

    Args:
        encoder: Name of the encoder, see :func:`jitflow.training.methods.encoders.make_encoder`.
        feature: Inner feature whose tokens are aligned, see :mod:`jitflow.layers.features`; None for the method's own.
        weight: Factor in the sum of losses; None for the method's own.
        layer: Layer of the encoder, counted from 0, or from the end if negative.

    Attributes:
        own_feature: Inner feature that the method was published with; of a subclass.
        own_weight: Weight that the method was published with; of a subclass.
        feature_spaces: Names of the extractors that are no held-out judges of such a training.

    Raises:
        ConfigError: If an argument is invalid.
    """

    own_feature: ClassVar[str]
    own_weight: ClassVar[float]

    def __init__(
        self, encoder: str, *, feature: str | None = None, weight: float | None = None, layer: int = -1
    ) -> None:
        super().__init__(self.own_weight if weight is None else weight)
        self.features = (feature or self.own_feature,)
        self.feature_spaces: tuple[str, ...] = ()
        self._spec, self._layer = encoder, layer

    def build(self, module: FlowLoss) -> None:
        """Read the encoder, and create the projector."""
        check_pixels(module, self.name)
        width = module.net.get_parameter("pos_embed").shape[-1]
        grid: tuple[int, int] = tuple(module.net.grid)  # type: ignore[arg-type]
        self._grid = grid
        maps: MapEncoder = make_encoder(self._spec, self._layer)
        self.feature_spaces = (maps.name,)
        self.projector = self.make_projector(width, maps.num_features)
        self.encoder = FrozenEncoder(maps, maps.checksum)

    def make_projector(self, width: int, num_features: int) -> nn.Module:
        """Create the trained map from tokens ``(B, N, D)`` to features ``(B, N, E)``.

        Args:
            width: D.
            num_features: E.
        """
        raise NotImplementedError

    def project(self, tokens: Tensor, state: FlowState) -> Tensor:
        """Project the network's tokens ``(B, N, D)`` to features ``(B, N, E)``.

        Args:
            tokens: The inner feature, shape ``(B, N, D)``.
            state: The step, for a method that draws random numbers.
        """
        projected: Tensor = self.projector(tokens)
        return projected

    def normalise(self, target: Tensor) -> Tensor:
        """Normalise the encoder's features ``(B, N, E)``; as they are, by default."""
        return target

    def forward(self, state: FlowState) -> Tensor:
        """Compute the loss of each sample, shape ``(B,)``, float32, in ``[0, 2]``."""
        with torch.no_grad():
            target = self.normalise(resize_maps(self.encoder(state.x1), self._grid))
        projected = self.project(state.features[self.features[0]], state)
        return 1 - cosine_similarity(projected.float(), target, dim=-1).mean(dim=-1)


def normalise_over_space(features: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Standardise each feature of an image over its tokens: mean 0, standard deviation 1.

    Args:
        features: Shape ``(B, N, E)``.
        eps: Added to the standard deviation.

    References:
        iREPA, arXiv:2512.10794: it takes away what all places share, and leaves where they differ.
    """
    mean, std = features.mean(dim=1, keepdim=True), features.std(dim=1, keepdim=True, correction=0)
    return (features - mean) / (std + eps)


class Repa(Alignment):
    """Plain REPA: a pointwise MLP projects the tokens after a block. It makes JiT worse, so it must be forced.

    Args:
        encoder: Name of the encoder.
        hidden_size: Width of the MLP's two hidden layers.
        force: Train with it all the same, such as for a comparison.
        further: Further arguments of :class:`Alignment`.

    Raises:
        ConfigError: If it is not forced.

    References:
        Yu et al. 2024, arXiv:2410.06940; on JiT-B/16 at 200 epochs FID 4.37 became 5.14, arXiv:2603.14366.
    """

    name = "repa"
    own_feature, own_weight = "block4", 0.5

    def __init__(self, encoder: str, *, hidden_size: int = 2048, force: bool = False, **further: Any) -> None:
        if not force:
            raise ConfigError(
                "plain REPA makes a network on pixels worse (JiT-B/16: FID 4.37 becomes 5.14, arXiv:2603.14366); take "
                "the loss term pixel_repa, or set force: true"
            )
        super().__init__(encoder, **further)
        self._hidden_size = hidden_size

    def make_projector(self, width: int, num_features: int) -> nn.Module:
        """Create the MLP of three layers."""
        hidden = self._hidden_size
        return nn.Sequential(
            nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, num_features)
        )
