"""From a network's output to the probabilities of codewords, and to the image they mean.

A place of a noisy image is evidence by itself: under noise of standard deviation s the likelihood of codeword e is
``exp(t <x_t, e> / ((1 - t) s)^2)``, up to a factor that all codewords (of equal length) share. The network only has to
add what the other places say, and its best answer, the posterior mean, is exactly the expected codeword.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from jitflow.apps.text.colour import ColourCodec, join_patches, split_patches
from jitflow.core.path import expand_time
from jitflow.errors import ConfigError

# Where the evidence of a place is certain, more of it would only drown the gradient; in units of log-odds per sign.
_MAX_EVIDENCE = 2.0
# Of a number spread evenly over [-1, 1].
_VALUE_VARIANCE = 1 / 3
# Least width of a digit's distribution, in levels: the next level is then exp(-8) times as likely.
_NARROWEST = 0.25


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

    def logits(self, output: Tensor, x_t: Tensor, t: Tensor, *, bias: Tensor | None = None) -> Tensor:
        """Add the evidence of each place, and how frequent each token is, to what the network says.

        Args:
            output: The network's output, shape ``(B, 3, H, W)``: the direction in which a place's codeword lies.
            x_t: Path sample, shape ``(B, 3, H, W)``.
            t: Time, shape ``(B,)``.
            bias: Log-probability of each token without any context, up to a constant, shape ``(vocab_size,)``. 48
                numbers a place cannot say it: among bytes the best direction leaves 1 nat of it out.

        Returns:
            Logits, shape ``(B, num_tokens, vocab_size)``, float32.
        """
        time = expand_time(t, x_t)
        noise = ((1 - time) * self.noise_scale).square().clamp_min(1e-6)
        evidence = (time / noise).clamp_max(_MAX_EVIDENCE) * x_t.float()
        # Sums of 48 terms decide by their small differences: half precision would blur them.
        with torch.autocast(x_t.device.type, enabled=False):
            scores = split_patches(output.float() + evidence) @ self.codec.codes(x_t.device).T
            return scores if bias is None else scores + bias.float()

    def expected_image(self, logits: Tensor) -> Tensor:
        """Average the codewords by their probabilities: shape ``(B, 3, H, W)``, float32 in ``[-1, 1]``."""
        with torch.autocast(logits.device.type, enabled=False):
            expected = logits.float().softmax(dim=-1) @ self.codec.codes(logits.device)
        return join_patches(expected, self.codec.img_size)

    @staticmethod
    def cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
        """Negative log-probability of token ids ``(B, num_tokens)`` in nats, shape ``(B, num_tokens)``."""
        return cross_entropy(logits.transpose(1, 2), ids, reduction="none")


def digit_cross_entropy(
    codec: ColourCodec, x1_pred: Tensor, t: Tensor, ids: Tensor, *, noise_scale: float = 1.0
) -> Tensor:
    """Negative log-probability of tokens of one pixel each, whose three digits are judged on their own.

    A digit's probabilities are those of a normal distribution around the prediction, as wide as the noise at that time
    leaves values that are spread over ``[-1, 1]``, and never so narrow that the right level alone would not do.

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
    # Precisions add up: what the noise still tells, and what is known of any value.
    precision = (time / ((1 - time).clamp_min(1e-6) * noise_scale)).square() + 1 / _VALUE_VARIANCE
    precision = precision.clamp_max((_NARROWEST * spacing) ** -2)
    truth = ((codec.encode(ids).flatten(2) + 1) / spacing).round().long()
    total = torch.zeros_like(truth[:, 0], dtype=torch.float32)
    for channel in range(3):
        distance = x1_pred[:, channel].float().flatten(1)[..., None] - levels
        logits = -0.5 * precision[..., None] * distance.square()
        total = total + cross_entropy(logits.transpose(1, 2), truth[:, channel], reduction="none")
    return total
