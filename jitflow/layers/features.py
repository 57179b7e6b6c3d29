"""Named inner features of a Transformer, collected between its blocks only when a caller asks for them.

Shapes: B batch, N image tokens, U class tokens, D width.

Names: ``block3`` is the image tokens after three blocks, shape ``(B, N, D)``; ``block0`` those before the first.
``class_tokens3`` is the class tokens at the same place, shape ``(B, U, D)``, where there are any.
``before_class_tokens`` is the image tokens just before the class tokens are prepended. ``condition`` is the embedding
of time and class that modulates every layer, shape ``(B, D)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from jitflow.errors import ConfigError, unknown_name
from jitflow.layers.stream import Stream

CONDITION = "condition"
BEFORE_CLASS_TOKENS = "before_class_tokens"


def feature_names(depth: int, *, class_tokens_from: int | None = None) -> tuple[str, ...]:
    """List the names of the inner features of a Transformer.

    Args:
        depth: Number of blocks.
        class_tokens_from: Index of the block before which class tokens are prepended; None without class tokens. The
            last block does not compute them.
    """
    names = [CONDITION, *(f"block{k}" for k in range(depth + 1))]
    if class_tokens_from is not None:
        names += [BEFORE_CLASS_TOKENS, *(f"class_tokens{k}" for k in range(class_tokens_from + 1, depth))]
    return tuple(names)


def block_of(name: str, *, class_tokens_from: int | None = None) -> int | None:
    """Return the number of blocks that image tokens of a name have been through; None for other features.

    Args:
        name: Name of a feature.
        class_tokens_from: Index of the block before which class tokens are prepended.
    """
    if name == BEFORE_CLASS_TOKENS:
        return class_tokens_from
    number = name.removeprefix("block")
    return int(number) if number != name and number.isdecimal() else None


class InnerFeatures:
    """The features of one forward pass that a caller asked for.

    Args:
        wanted: Their names.
        known: Names that the network offers.

    Attributes:
        found: Features by name, so far.

    Raises:
        ConfigError: If a name is unknown.
    """

    def __init__(self, wanted: Sequence[str], known: Iterable[str]) -> None:
        known = tuple(known)
        for name in wanted:
            if name not in known:
                raise unknown_name("inner feature", name, known)
        self.wanted = tuple(wanted)
        self.found: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor) -> None:
        """Keep a feature if it was asked for."""
        if name in self.wanted:
            self.found[name] = value

    def start(self, condition: Tensor | None, stream: Stream) -> None:
        """Keep what there is before the first block.

        Args:
            condition: Embedding of time and class, shape ``(B, D)``.
            stream: The embedded patches.
        """
        if condition is not None:
            self.add(CONDITION, condition)
        self.add_stream(0, stream)

    def add_stream(self, num_blocks: int, stream: Stream, num_class_tokens: int = 0) -> None:
        """Keep the tokens after a block, of those that were asked for.

        Args:
            num_blocks: Blocks so far.
            stream: The residual stream; it is not changed.
            num_class_tokens: Leading tokens of it that are class tokens.
        """
        image, of_class = f"block{num_blocks}", f"class_tokens{num_blocks}"
        if image not in self.wanted and of_class not in self.wanted:
            return
        tokens = stream.added()
        self.add(image, tokens[:, num_class_tokens:])
        if num_class_tokens:
            self.add(of_class, tokens[:, :num_class_tokens])


def check_offers_features(network: object, wanted: Sequence[str]) -> None:
    """Check that a network offers inner features before a training asks for them.

    Args:
        network: The network.
        wanted: Names of the features.

    Raises:
        ConfigError: If it offers none, or none of a name.
    """
    known = getattr(network, "feature_names", ())
    if wanted and not known:
        raise ConfigError(f"the network {type(network).__name__} offers no inner features, such as {wanted[0]}")
    InnerFeatures(wanted, known)
