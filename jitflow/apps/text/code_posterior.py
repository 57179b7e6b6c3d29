"""Probabilities of codewords from a network's output, and the expected image.

Each position of a noisy image is evidence by itself: under noise of standard deviation s the likelihood of codeword e
is ``exp(t <x_t, e> / ((1 - t) s)^2)``, up to a factor that all codewords (of equal length) share. The network only has
to add the evidence of the other positions, and its optimal output, the posterior mean, is exactly the expected
codeword.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from jitflow.apps.text.colour import ColourCodec, join_patches, split_patches
from jitflow.core.path import expand_time
from jitflow.errors import ConfigError
from jitflow.host import full_float32

# Upper limit of the evidence at a position (log-odds per sign): beyond certainty, more would only drown the gradient.
_MAX_EVIDENCE = 2.0
# Variance of the uniform distribution on [-1, 1].
_VALUE_VARIANCE = 1 / 3
# Minimum width of a digit's distribution, in levels: the next level is then exp(-8) times as likely.
_MIN_WIDTH_LEVELS = 0.25


class CodePosterior:
    """Probabilities of the codewords of a codebook.

    Args:
        codec: A colour codec of the mapping ``codebook``.
        noise_scale: Standard deviation of the path's noise.

    Raises:
        ConfigError: If the mapping has no codewords.
    """

    def __init__(self, codec: ColourCodec, *, noise_scale: float = 1.0) -> None:
        if codec.mapping != "codebook":
            raise ConfigError(f"only the mapping codebook has codewords to choose from; this is {codec.mapping}")
        self.codec = codec
        self.noise_scale = noise_scale

    # Not compiled, here and below: compiled code does not see a flag of torch that changes for a few lines.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def logits(self, output: Tensor, x_t: Tensor, t: Tensor, *, bias: Tensor | None = None) -> Tensor:
        """Compute token logits: the network's output plus the evidence at each position and the token frequencies.

        Args:
            output: The network's output, shape ``(B, 3, H, W)``: the direction of each position's codeword.
            x_t: Path sample, shape ``(B, 3, H, W)``.
            t: Time, shape ``(B,)``.
            bias: Log-probability of each token without context, up to a constant, shape ``(vocab_size,)``. The 48
                values of a position cannot express it: for bytes the best direction misses 1 nat of it.

        Returns:
            Logits, shape ``(B, num_tokens, vocab_size)``, float32.
        """
        time = expand_time(t, x_t)
        noise = ((1 - time) * self.noise_scale).square().clamp_min(1e-6)
        evidence = (time / noise).clamp_max(_MAX_EVIDENCE) * x_t.float()
        # Small differences between sums of 48 terms matter; half precision would blur them.
        with torch.autocast(x_t.device.type, enabled=False), full_float32():
            scores = split_patches(output.float() + evidence) @ self.codec.codes(x_t.device).T
            return scores if bias is None else scores + bias.float()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def expected_image(self, logits: Tensor) -> Tensor:
        """Average the codewords weighted by their probabilities: shape ``(B, 3, H, W)``, float32 in ``[-1, 1]``."""
        with torch.autocast(logits.device.type, enabled=False), full_float32():
            expected = logits.float().softmax(dim=-1) @ self.codec.codes(logits.device)
        return join_patches(expected, self.codec.img_size)

    @staticmethod
    def cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
        """Negative log-probability of token ids ``(B, num_tokens)`` in nats, shape ``(B, num_tokens)``."""
        return cross_entropy(logits.transpose(1, 2), ids, reduction="none")


def digit_cross_entropy(
    codec: ColourCodec, x1_pred: Tensor, t: Tensor, ids: Tensor, *, noise_scale: float = 1.0
) -> Tensor:
    """Cross-entropy of one-pixel tokens, whose three colour channels (digits) are predicted independently.

    A digit's probabilities follow a normal distribution around the prediction. Its width is the posterior standard
    deviation, at that time, of a value uniform on ``[-1, 1]``, with a lower limit.

    Args:
        codec: A colour codec of the mapping ``lattice`` or ``base256``.
        x1_pred: Predicted image, shape ``(B, 3, H, W)``.
        t: Time, shape ``(B,)``.
        ids: Token ids, shape ``(B, num_tokens)``.
        noise_scale: Standard deviation of the path's noise.

    Returns:
        Cross-entropy in nats, shape ``(B, num_tokens)``.
    """
    levels = codec.levels(x1_pred.device).to(x1_pred.device)
    spacing = 2 / max(1, len(levels) - 1)
    time = expand_time(t, x1_pred[:, 0].flatten(1)).float()
    # Precisions (inverse variances) of the noisy observation and of the prior add up.
    precision = (time / ((1 - time).clamp_min(1e-6) * noise_scale)).square() + 1 / _VALUE_VARIANCE
    precision = precision.clamp_max((_MIN_WIDTH_LEVELS * spacing) ** -2)
    truth = ((codec.encode(ids).flatten(2) + 1) / spacing).round().long()
    total = torch.zeros_like(truth[:, 0], dtype=torch.float32)
    for channel in range(3):
        distance = x1_pred[:, channel].float().flatten(1)[..., None] - levels
        logits = -0.5 * precision[..., None] * distance.square()
        total = total + cross_entropy(logits.transpose(1, 2), truth[:, channel], reduction="none")
    return total
