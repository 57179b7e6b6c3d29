"""Export with torch.export: programs of velocity and decoder that torch alone runs, and a script that samples."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from jitflow.checkpoint.state import ModelState
from jitflow.codec.base import Codec
from jitflow.core.path import ModelPrediction, velocity_from_prediction
from jitflow.errors import CheckpointError, ConfigError
from jitflow.export import standalone_sampler
from jitflow.export.sampling_record import sampling_record
from jitflow.io.files import write_json
from jitflow.layers.fusion import plain_formulas
from jitflow.training.module import FlowModule

PARITY = 1e-4
LIBRARY = "torch"
USAGE = (
    "`python sample.py --labels 0,1 --seeds 0,1 --out images` draws images with torch and Pillow alone. "
    "`velocity.pt2` takes any number of states at a time, `decoder.pt2` one; both were made on the CPU."
)


class _VelocityProgram(nn.Module):
    """Velocity network for export: ``(x, t, label) -> velocity``, without guidance."""

    def __init__(self, net: nn.Module, prediction: ModelPrediction, t_eps: float) -> None:
        super().__init__()
        self.net = net
        self.prediction = prediction
        self.t_eps = t_eps

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        output = self.net(x, t, label).float()
        return velocity_from_prediction(output, x, t, prediction=self.prediction, t_eps=self.t_eps)


class _DecoderProgram(nn.Module):
    """Decoder for export: maps one state to pixels."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, x: Tensor) -> Tensor:
        return self.codec.decode(x)


def write_programs(folder: Path, state: ModelState, module: FlowModule, ema: int | str) -> None:
    """Export the velocity and the decoder, and compare both with the model.

    Args:
        folder: Target folder.
        state: State of the checkpoint; not needed here.
        module: The model.
        ema: Average to export, 1 or 2; 0 for the weights themselves.

    Raises:
        ConfigError: If the model samples in a way that programs do not know.
        CheckpointError: If a program's outputs differ from the model's.
    """
    _check_programs(module)
    # A program must not need kernels that only this library has.
    averages = module.ema_weights(int(ema)) if ema else nullcontext()
    with torch.no_grad(), averages, plain_formulas():
        velocity = _VelocityProgram(module.net, module.prediction, module.t_eps).eval()
        decoder = _DecoderProgram(module.codec)
        # Any batch size but 1, which export would treat as a constant.
        batch = torch.export.Dim("batch", min=1)
        inputs = _velocity_inputs(module, 2)
        # Run once, so that lazily created tables become constants of the program.
        velocity(*inputs)
        program = torch.export.export(velocity, inputs, dynamic_shapes=({0: batch}, {0: batch}, {0: batch}))
        state_of_one = (inputs[0][:1].clone(),)
        decoded = torch.export.export(decoder, state_of_one)
        difference = max(
            largest_difference(program.module(), velocity, _velocity_inputs(module, size)) for size in (1, 2, 5)
        )
        levels = largest_difference(decoded.module(), decoder, state_of_one)
        # Inside the block, since the program refers to the weights, which are the average only here.
        _save_program(program, folder / "velocity.pt2")
        _save_program(decoded, folder / "decoder.pt2")
    if not difference <= PARITY or not levels <= 1:
        raise CheckpointError(
            f"the exported program differs from the model by {difference:.2g} in its velocity and by {levels:g} levels "
            "in its pixels; nothing was written"
        )
    shutil.copyfile(standalone_sampler.__file__, folder / "sample.py")
    checked = {"largest_difference": difference, "pixel_levels": levels, "torch": torch.__version__}
    write_json(folder / "sampling.json", {**sampling_record(module), "checked": checked})


def _save_program(program: torch.export.ExportedProgram, path: Path) -> None:
    with warnings.catch_warnings():
        # The warning concerns views of one tensor, which are harmless on the CPU.
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        torch.export.save(program, path)


def _check_programs(module: FlowModule) -> None:
    """Raise ConfigError if the model samples in a way that a program and its script do not know."""
    usual = {"guidance_rule": "cfg", "internal_guidance": 1.0, "sde": 0.0, "transports": False}
    unknown = [f"{name} {getattr(module, name)}" for name, value in usual.items() if getattr(module, name) != value]
    unknown += ["sampling_method consistency"] * (module.sampling_method == "consistency")
    unknown += ["prediction asym"] * (module.prediction == "asym")
    unknown += ["named conditions"] * (module.conditions is not None)
    if unknown:
        raise ConfigError(f"a program cannot have {', '.join(unknown)}; export safetensors instead")


def _velocity_inputs(module: FlowModule, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Create test inputs that cycle through all labels, the null label first."""
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(size, *module.codec.shape, generator=generator)
    labels = (module.num_classes - torch.arange(size)) % (module.num_classes + 1)
    return x, torch.rand(size, generator=generator), labels


def largest_difference(
    program: Callable[..., Tensor], original: Callable[..., Tensor], inputs: tuple[Tensor, ...]
) -> float:
    """Return the largest difference between the output tensors of an exported program and of the model.

    Args:
        program: The exported program.
        original: The model.
        inputs: Arguments of both.

    Returns:
        The difference in units of the output.
    """
    return float((program(*inputs).float() - original(*inputs).float()).abs().max())
