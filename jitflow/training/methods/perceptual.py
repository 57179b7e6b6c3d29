"""Gated perceptual loss: the data that the network predicts look like the true ones to frozen networks.

Shapes: B batch, C channels, H x W pixels, E features of an encoder, h x w places.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from jitflow.core.path import data_from_velocity
from jitflow.encoders.lpips import MIN_SIDE_PX, Lpips
from jitflow.errors import ConfigError
from jitflow.training.loss import FlowLoss
from jitflow.training.methods.encoders import check_pixels, make_encoder
from jitflow.training.terms import FlowState, FrozenEncoder, LossModule, check_weight

# The same weights under their name in timm, which a judge would have.
_VGG_NAMES = ("vgg16.tv_in1k",)


class Perceptual(LossModule):
    """LPIPS and the features of an encoder, of predicted against true data, at times that are not mostly noise.

    Args:
        encoder: Name of the encoder whose features are compared, see
            :func:`jitflow.training.methods.encoders.make_encoder`; None for none.
        lpips: torchvision's weights file of VGG-16, ``vgg16-397923af.pth``; None for no LPIPS.
        weight: Factor in the sum of losses, of both parts.
        lpips_weight: Factor of LPIPS.
        encoder_weight: Factor of the encoder's part, ``1 - mean cosine`` over places.
        gate: Time from which the loss counts, in ``[0, 1]``; before it predicted data are blurred means.
        layer: Layer of the encoder, counted from 0, or from the end if negative.

    Attributes:
        feature_spaces: Names of the extractors whose features the training optimises.

    Raises:
        ConfigError: If an argument is invalid, neither part is asked for, or images are too small for LPIPS.

    References:
        PixelGen, arXiv:2602.02493.
    """

    name = "perceptual"

    def __init__(
        self,
        encoder: str | None = None,
        lpips: str | None = None,
        *,
        weight: float = 1.0,
        lpips_weight: float = 0.1,
        encoder_weight: float = 0.01,
        gate: float = 0.3,
        layer: int = -1,
    ) -> None:
        super().__init__(weight)
        if encoder is None and lpips is None:
            raise ConfigError("perceptual needs an encoder, a weights file of VGG-16 for lpips, or both")
        if not 0 <= gate <= 1:
            raise ConfigError(f"gate must be between 0 and 1; got {gate}")
        self.feature_spaces: tuple[str, ...] = ()
        self._spec, self._layer, self._lpips_path = encoder, layer, lpips
        self._lpips_weight, self._encoder_weight = check_weight(lpips_weight), check_weight(encoder_weight)
        self._gate = gate
        self.encoder: FrozenEncoder | None = None
        self.lpips: FrozenEncoder | None = None

    def build(self, module: FlowLoss) -> None:
        """Read the encoders' files."""
        check_pixels(module, self.name)
        self._t_eps = module.t_eps
        if self._spec is not None:
            maps = make_encoder(self._spec, self._layer)
            self.encoder = FrozenEncoder(maps, maps.checksum)
            self.feature_spaces += (maps.name,)
        if self._lpips_path is not None:
            side_px = min(module.codec.shape[1:])
            if side_px < MIN_SIDE_PX:
                raise ConfigError(
                    f"lpips needs images of at least {MIN_SIDE_PX} px; these have {side_px}: leave it out"
                )
            distance = Lpips(self._lpips_path)
            self.lpips = FrozenEncoder(distance, distance.checksum)
            self.feature_spaces += _VGG_NAMES

    def forward(self, state: FlowState) -> Tensor:
        """Compute the loss of each sample, shape ``(B,)``, float32; 0 before the gate."""
        x1_pred = data_from_velocity(state.v_pred, state.x_t, state.t, t_eps=self._t_eps)
        counts = state.t >= self._gate
        if torch.compiler.is_compiling():
            # A graph has fixed shapes.
            return torch.where(counts, self._distance(x1_pred, state.x1), 0.0)
        total = torch.zeros(len(counts), device=x1_pred.device)
        if counts.any():
            total = total.index_put((counts,), self._distance(x1_pred[counts], state.x1[counts]))
        return total

    def _distance(self, x1_pred: Tensor, x1: Tensor) -> Tensor:
        """Compute the weighted distance of predicted and true data, both ``(B, C, H, W)``, as ``(B,)``."""
        total = torch.zeros(len(x1), device=x1.device)
        if self.lpips is not None:
            total = total + self._lpips_weight * self.lpips(x1_pred, x1)
        if self.encoder is not None:
            with torch.no_grad():
                target = self.encoder(x1)
            cosine = cosine_similarity(self.encoder(x1_pred), target, dim=1)
            total = total + self._encoder_weight * (1 - cosine.mean(dim=(1, 2)))
        return total
