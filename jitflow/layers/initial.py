"""Weight initialisation of adaLN Transformers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from torch import Tensor, nn

from jitflow.errors import unknown_name
from jitflow.layers.adaln import AdaLNBlock, AdaLNFinal

Init = Literal["xavier", "truncated_normal"]
INITS: tuple[str, ...] = get_args(Init)


def initialise_(net: nn.Module, kind: Init, *, normal: Iterable[Tensor], std: float = 0.02) -> None:
    """Initialise the weights of a network from the global generator.

    Matrices (linear layers, then patch convolutions read as matrices) follow ``kind``, their biases are zero. The
    modulations of all adaLN layers are zero, so every block starts as the identity.

    Args:
        net: The network, changed in place.
        kind: ``"xavier"``: uniform within ``sqrt(6 / (fan_in + fan_out))``; the output layer is zero, so the first
            output is exactly 0. ``"truncated_normal"``: normal of standard deviation ``std``, truncated at 2; the
            output layer has at most 0.02, which keeps the first predictions small.
        normal: Parameters drawn from a normal distribution of standard deviation 0.02 instead, such as embedding
            tables.
        std: Standard deviation of the truncated normal. A network of width 128 learned faster with 0.08 than with 0.02.

    Raises:
        ConfigError: If ``kind`` is unknown.
    """
    if kind not in INITS:
        raise unknown_name("init", kind, INITS)
    modules = list(net.modules())
    # All linear layers come before all convolutions: the order of random draws must not change for a given seed.
    for matrix_kind in (nn.Linear, nn.Conv2d):
        for module in modules:
            if isinstance(module, matrix_kind):
                matrix = module.weight.view(module.weight.shape[0], -1)
                if kind == "xavier":
                    nn.init.xavier_uniform_(matrix)
                else:
                    nn.init.trunc_normal_(matrix, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    for tensor in normal:
        nn.init.normal_(tensor, std=0.02)
    # Last, so that no other rule overwrites the zeros.
    for module in modules:
        if isinstance(module, AdaLNBlock | AdaLNFinal):
            _zero_(module.adaLN_modulation[1])
        if isinstance(module, AdaLNFinal):
            if kind == "xavier":
                _zero_(module.linear)
            else:
                nn.init.trunc_normal_(module.linear.weight, std=min(std, 0.02))


def _zero_(linear: nn.Module) -> None:
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
