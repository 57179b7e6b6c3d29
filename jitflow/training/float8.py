"""Float8 products in the large linear layers of a network, by torchao: the precision ``fp8-mixed`` of a training.

The operands of a product are rounded to 8 bits, each tensor with one scale that is computed anew for every product
("dynamic, tensorwise scaling"). Weights, gradients, optimiser and averages stay float32: a converted layer shares its
parameters, under the same names, with the layer that it replaces, so checkpoints do not change.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

from jitflow.errors import ConfigError

FP8_MIXED = "fp8-mixed"
"""Precision of a training: bfloat16 as in ``bf16-mixed``, and float8 products in the large layers."""
# The first cards that multiply in float8: Ada (8.9), Hopper (9.0).
_MIN_CAPABILITY = (8, 9)
# torchao's limits for tensorwise scaling, from its measurements on an H100: at most this wide and long, casting the
# operands takes more time than the faster product saves.
_SMALL_OUT, _SMALL_IN = 1024, 4096
# With shorter sums the time of a float8 product is that of writing its result, which is in bfloat16 either way.
_MIN_IN = 512
# The kernels' alignment; other sizes are padded.
_MULTIPLE = 16
_INSTEAD = "use bf16-mixed instead"


def check_float8(accelerator: Any = "auto") -> None:
    """Check that this device can train with float8 products.

    Args:
        accelerator: As Lightning's Trainer takes it.

    Raises:
        ConfigError: If there is no CUDA device, its compute capability is below 8.9, or torchao is missing.
    """
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        raise ConfigError(f"precision {FP8_MIXED} needs a CUDA device, and this training has none; {_INSTEAD}")
    capability = torch.cuda.get_device_capability()
    if capability < _MIN_CAPABILITY:
        raise ConfigError(
            f"precision {FP8_MIXED} needs a card of compute capability 8.9 or more; {torch.cuda.get_device_name()} has "
            f"{capability[0]}.{capability[1]}; {_INSTEAD}"
        )
    _check_package()


def float8_layers(net: nn.Module) -> list[str]:
    """Select the linear layers whose products are worth float8: large ones inside the network's ``blocks``.

    Embeddings, modulations and the final layer are left out: they take little of a step's time, and their errors
    reach every token.

    Args:
        net: The network.

    Returns:
        Their names in the network, without those that compute in float8 already.
    """
    return [
        name
        for name, layer in net.named_modules()
        if type(layer) is nn.Linear
        and "blocks" in name.split(".")
        and "adaLN_modulation" not in name.split(".")
        and layer.in_features >= _MIN_IN
        and (layer.out_features > _SMALL_OUT or layer.in_features > _SMALL_IN)
    ]


def check_float8_layers(net: nn.Module) -> None:
    """Raise ConfigError if no layer of the network is large enough for float8 products.

    Args:
        net: The network; its tensors may be on the meta device.
    """
    if not float8_layers(net):
        raise ConfigError(
            f"precision {FP8_MIXED} would change nothing: no layer in the network's blocks is large enough for float8 "
            f"products (at least {_MIN_IN} inputs, more than {_SMALL_OUT} outputs); {_INSTEAD}"
        )


def use_float8(net: nn.Module, *, emulated: bool = False) -> int:
    """Convert the large linear layers of a network in place to float8 products.

    Call it after the weights are loaded and before the first step, which may compile the network. Its parameters and
    their names are the same before and after.

    Args:
        net: The network; on a CUDA device, unless emulated.
        emulated: Round the operands to float8, and multiply in ordinary precision: slow, for tests on any device.

    Returns:
        Number of converted layers.

    Raises:
        ConfigError: If float8 is not available here (see :func:`check_float8`), or no layer is large enough.
    """
    if emulated:
        _check_package()
    else:
        check_float8()
    check_float8_layers(net)
    names = set(float8_layers(net))
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    from jitflow.training.float8_linear import PaddedFloat8Linear

    # The gradient of the weights sums over tokens, whose number need not be a multiple of 16.
    settings = Float8LinearConfig(emulate=emulated, pad_inner_dim=True)
    convert_to_float8_training(net, module_filter_fn=lambda _, name: name in names, config=settings)
    for name in names:
        layer = net.get_submodule(name)
        if layer.in_features % _MULTIPLE or layer.out_features % _MULTIPLE:  # type: ignore[operator]
            layer.__class__ = PaddedFloat8Linear
    return len(names)


def undo_float8(net: nn.Module) -> None:
    """Restore ordinary linear layers, with the same parameters, in a network that :func:`use_float8` has converted."""
    from torchao.float8.float8_linear import Float8Linear

    for name, layer in list(net.named_modules()):
        if isinstance(layer, Float8Linear):
            parent, _, own = name.rpartition(".")
            plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
            plain.weight, plain.bias = layer.weight, layer.bias
            setattr(net.get_submodule(parent), own, plain.train(layer.training))


def _check_package() -> None:
    if importlib.util.find_spec("torchao") is None:
        raise ConfigError(
            f'precision {FP8_MIXED} needs torchao, which is not installed; pip install "jitflow[float8]", or {_INSTEAD}'
        )
