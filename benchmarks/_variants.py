"""Networks of the benchmarks: their sizes, and the ways in which this library can be set up to train them.

A new way is one line in :data:`VARIANTS`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from jitflow.apps.images.module import JiTLightningModule
from jitflow.errors import ConfigError
from jitflow.layers.fusion import plain_formulas
from jitflow.layers.transformer import CompiledParts
from jitflow.nets.jit import JiT
from jitflow.nets.registry import create_model


@dataclass(frozen=True)
class Case:
    """Case of a benchmark: network, image size and batch.

    Attributes:
        model: Name of the network.
        img_size: Side in pixels.
        num_classes: Number of classes.
        batch: Images in a step.
    """

    model: str
    img_size: int
    num_classes: int
    batch: int

    @property
    def name(self) -> str:
        """Label of a row."""
        return f"{self.model}, {self.img_size} px, batch {self.batch}"


NANO = Case("JiT-N/4", 16, 10, 64)
BASE_ON_CPU = Case("JiT-B/16", 256, 1000, 2)
BASE = Case("JiT-B/16", 256, 1000, 128)
LARGE = Case("JiT-L/16", 256, 1000, 128)
# 64 images are estimated at 74 GiB alone, too many for a card of 80 GiB on which other benchmarks wait.
HUGE = Case("JiT-H/16", 256, 1000, 32)
# Takes the place of every other one in a dry run.
TINY = Case("JiT-N/4", 8, 4, 4)

_BF16_STREAM = {"bf16_stream": True}
# Arguments of the module; "float8" converts the network after it is built, "plain" leaves out our kernels for CUDA.
VARIANTS: dict[str, dict[str, Any]] = {
    "eager": {"compile": False},
    "blocks": {"compile": "blocks"},
    "network": {"compile": "network"},
    "loss": {"compile": "loss"},
    "bf16 stream": {"compile": "loss", "net_settings": _BF16_STREAM},
    "plain": {"compile": "network", "plain": True},
    "bf16 stream, blocks": {"compile": "blocks", "net_settings": _BF16_STREAM},
    "float8": {"compile": "blocks", "net_settings": _BF16_STREAM, "float8": True},
}
OURS_ON_CUDA = "loss"
"""The variant that the rows call ours on a GPU: network and loss of the training step compiled together."""
_LABELS = {
    "eager": "ours",
    "blocks": "ours compiled",
    "network": "ours compiled as one",
    "loss": "ours compiled with its loss",
    "plain": "ours compiled as one without kernels",
}


class NotAvailableError(Exception):
    """A variant that this version of the library, this card or this environment lacks."""


@contextmanager
def report_missing(row: str) -> Iterator[None]:
    """Print why a row cannot be measured here, and go on with the next one."""
    try:
        yield
    except NotAvailableError as error:
        print(f"{row} not available: {error}", flush=True)


class Bare(JiTLightningModule):
    """Module without a trainer to log to."""

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Drop the value, as a trainer does between logged steps."""


def label_of(variant: str) -> str:
    """Return the label of a variant in a row's name."""
    return _LABELS.get(variant, variant)


def formulas_of(variant: str) -> AbstractContextManager[Any]:
    """Return the context in which a variant's steps run: with our kernels where they can be used, or without them."""
    return plain_formulas() if VARIANTS[variant].get("plain", False) else nullcontext()


def build_ours(
    case: Case,
    variant: str = "eager",
    device: str = "cpu",
    *,
    kind: type[JiTLightningModule] = Bare,
    **settings: Any,
) -> JiTLightningModule:
    """Build this library's side of a benchmark; equal arguments give equal weights.

    Args:
        case: The network and its sizes.
        variant: Name in :data:`VARIANTS`; :func:`formulas_of` gives the context that its steps run in.
        device: Device of the module.
        kind: Class of the module.
        settings: Further arguments of the module, such as those of sampling; they replace those of the variant.

    Raises:
        NotAvailableError: If the variant cannot be built here; says why.
    """
    chosen: dict[str, Any] = {**VARIANTS[variant], **settings}
    compiled: bool | CompiledParts = chosen.pop("compile")
    float8 = chosen.pop("float8", False)
    chosen.pop("plain", None)
    _check_known(chosen.get("net_settings") or {})
    torch.manual_seed(0)
    module = kind(case.model, case.img_size, case.num_classes, compile=False, **chosen)
    # On the device: for a large network it takes a CPU seconds.
    module = module.to(device)
    shake_(module)
    if float8:
        _use_float8(module)
    module.net.compile_parts(compiled)
    return module


def build_on_meta(case: Case) -> JiT:
    """Build a case's network on the meta device, which takes no memory, to count its operations."""
    with torch.device("meta"):
        net = create_model(case.model, img_size=case.img_size, num_classes=case.num_classes)
    assert isinstance(net, JiT)
    return net


def shake_(module: JiTLightningModule) -> None:
    """Perturb the initial weights, whose zero modulations would give zero outputs."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))


def _check_known(net_settings: Mapping[str, Any]) -> None:
    unknown = net_settings.keys() - inspect.signature(JiT).parameters.keys()
    if unknown:
        raise NotAvailableError(f"this version's JiT has no setting {', '.join(sorted(unknown))}")


def _use_float8(module: JiTLightningModule) -> None:
    try:
        convert = importlib.import_module("jitflow.training.float8").use_float8
        converted = convert(module.net)
    except (ImportError, ConfigError) as error:
        raise NotAvailableError(str(error)) from None
    print(f"float8: {converted} linear layers", flush=True)
