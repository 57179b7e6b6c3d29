"""A trained model for people who do not have its checkpoint's framework: weights, programs, a diffusers pipeline."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from jitflow.applications import get_application
from jitflow.checkpoint.formats import read_state, write_state
from jitflow.checkpoint.load import load_module
from jitflow.checkpoint.state import ModelState
from jitflow.codec.base import Codec
from jitflow.codec.latent import LatentCodec
from jitflow.codec.vae import VAECodec
from jitflow.core.path import Prediction, velocity_from_prediction
from jitflow.errors import CheckpointError, ConfigError, unknown_name
from jitflow.export import standalone_sampler
from jitflow.export.model_card import UNKNOWN_LICENSE, find_data, find_reports, model_card
from jitflow.io.files import writable_folder, write_json, write_text
from jitflow.training.module import FlowModule

log = logging.getLogger(__name__)

Format = Literal["safetensors", "torch_export", "diffusers"]
FORMATS: tuple[Format, ...] = get_args(Format)
PARITY = 1e-4
_WEIGHTS_NAME = "model.safetensors"
_CODEC_NAME = "codec.safetensors"
_COMPONENT = "jitflow.export.diffusers_pipeline"


def export(
    checkpoint: str | Path,
    target: str | Path,
    *,
    format: Format = "safetensors",
    ema: int | str = 1,
    vavae_path: str | Path | None = None,
    report: str | Path | None = None,
    license: str = UNKNOWN_LICENSE,
    dry_run: bool = False,
) -> Path:
    """Export a model into a folder of its own, with a card; the folder appears whole or not at all.

    Args:
        checkpoint: A file of any of our formats.
        target: Folder to make; it must not exist, or be empty.
        format: ``safetensors``: the weights, bit by bit. ``torch_export``: programs that torch alone runs, and a script
            that samples with them. ``diffusers``: a folder for ``DiffusionPipeline.from_pretrained``.
        ema: Average to export, 1 or 2; 0 for the weights themselves; ``"all"`` for all of them (safetensors only).
        vavae_path: File of the autoencoder that made the latents, if the checkpoint does not hold its codec.
        report: A report of ``jitflow evaluate`` for the card; by default those beside the checkpoint.
        license: Identifier of the weights' licence for the card.
        dry_run: Check everything that can be checked without making the export, and write nothing.

    Returns:
        The folder.

    Raises:
        ConfigError: If the target is taken, the format does not suit the model, or something is not installed.
        CheckpointError: If the checkpoint cannot be read, or the exported program computes something else.
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if ema not in (0, 1, 2, "all") or (ema == "all" and format != "safetensors"):
        raise ConfigError(f"ema must be 0, 1 or 2, or all for safetensors; got {ema!r}")
    if format == "diffusers" and importlib.util.find_spec("diffusers") is None:
        raise ConfigError("the format diffusers needs diffusers; run pip install 'jitflow[diffusers]'")
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists already; choose another target, or remove it")
    checkpoint = Path(checkpoint).expanduser()
    state = read_state(checkpoint)
    takes = get_application(state.application).exports if state.application else FORMATS
    if format not in takes:
        raise ConfigError(f"{state.application} models are exported as {', '.join(takes)}, not as {format}")
    if ema != "all":
        state.chosen(int(ema))
    module = _load(checkpoint, state, vavae_path, needs_images=format != "safetensors")
    reports = find_reports(checkpoint, ema=ema, given=report)
    if dry_run:
        return target
    writable_folder(target.parent)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        # Inside the temporary folder, which is private to the user, one of ordinary rights.
        made = scratch / "made"
        made.mkdir()
        _WRITERS[format](made, state, module, ema)
        usage, library = _USAGE[format]
        card = model_card(
            title=str(state.settings.get("model_name", type(module).__name__)),
            settings={k: v for k, v in state.settings.items() if k != "tokenizer"},
            sampling=sampling_record(module),
            weights={0: "the weights themselves", "all": "weights and averages"}.get(ema, f"EMA {ema} of its weights"),
            data=find_data(checkpoint, state.extra),
            reports=reports,
            license=license,
            usage=usage,
            library=library,
        )
        write_text(made / "README.md", card)
        made.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def sampling_record(module: FlowModule) -> dict[str, Any]:
    """Everything that, with the weights, a label and a seed, names an image.

    Args:
        module: The model.

    Returns:
        Plain values: shape and scale of the noise, solver, steps, guidance, labels, rounding.
    """
    record: dict[str, Any] = {
        "shape": list(module.codec.shape),
        "noise": "torch.Generator().manual_seed(seed) on the CPU, one for each image, standard normal, float32",
        "noise_scale": module.noise_scale,
        "time": "0 is noise, 1 is data",
        "solver": module.sampling_method,
        "steps": module.num_sampling_steps,
        "time_shift": module.time_shift,
        "guidance": module.cfg_scale,
        "interval": list(module.cfg_interval),
        "guided_channels": module.cfg_channels,
        "num_classes": module.num_classes,
        "null_label": module.num_classes,
    }
    return {**record, **module.describe_labels()}


def _load(checkpoint: Path, state: ModelState, vavae_path: str | Path | None, *, needs_images: bool) -> FlowModule:
    """The module with the codec that its pictures need."""
    module = load_module(checkpoint)
    if vavae_path is not None:
        module.load_codec(vavae_path)
    elif needs_images and isinstance(module.codec, LatentCodec):
        # Says which codec made the latents, and what to pass.
        module.codec.image_codec()
    return module


# ----------------------------------------------------------------------------------------- safetensors


def _write_safetensors(folder: Path, state: ModelState, module: FlowModule, ema: int | str) -> None:
    write_state(state, folder / _WEIGHTS_NAME, ema=ema)
    _write_codec(folder, module)


def _write_codec(folder: Path, module: FlowModule) -> None:
    """Put an autoencoder beside the weights; a linear codec is inside them already."""
    if isinstance(module.codec, LatentCodec) and isinstance(module.codec.images, VAECodec):
        module.codec.images.export(folder / _CODEC_NAME)


# ---------------------------------------------------------------------------------------- torch.export


class _VelocityProgram(nn.Module):
    """What sampling needs of a module: ``(x, t, label) -> velocity``, guidance left to the caller."""

    def __init__(self, net: nn.Module, prediction: Prediction, t_eps: float) -> None:
        super().__init__()
        self.net = net
        self.prediction = prediction
        self.t_eps = t_eps

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        output = self.net(x, t, label).float()
        return velocity_from_prediction(output, x, t, prediction=self.prediction, t_eps=self.t_eps)


class _DecoderProgram(nn.Module):
    """One state to pixels."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, x: Tensor) -> Tensor:
        return self.codec.decode(x)


def _write_programs(folder: Path, state: ModelState, module: FlowModule, ema: int | str) -> None:
    with torch.no_grad(), module.ema_weights(int(ema)) if ema else nullcontext():
        velocity = _VelocityProgram(module.net, module.prediction, module.t_eps).eval()
        decoder = _DecoderProgram(module.codec)
        # Any number but 1, which would be taken for a constant.
        batch = torch.export.Dim("batch", min=1)
        inputs = _velocity_inputs(module, 2)
        # Tables that are made on first use become constants of the program.
        velocity(*inputs)
        program = torch.export.export(velocity, inputs, dynamic_shapes=({0: batch}, {0: batch}, {0: batch}))
        state_of_one = (inputs[0][:1].clone(),)
        decoded = torch.export.export(decoder, state_of_one)
        difference = max(_difference(program.module(), velocity, _velocity_inputs(module, size)) for size in (1, 2, 5))
        levels = _difference(decoded.module(), decoder, state_of_one)
        # Inside the block: a program refers to the weights, which are the average only here.
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
        # Of views into one tensor, which are on the CPU here, where they do no harm.
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        torch.export.save(program, path)


def _velocity_inputs(module: FlowModule, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs that use every label in turn, the null label first."""
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(size, *module.codec.shape, generator=generator)
    labels = (module.num_classes - torch.arange(size)) % (module.num_classes + 1)
    return x, torch.rand(size, generator=generator), labels


def _difference(program: Callable[..., Tensor], original: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> float:
    """Largest difference between two functions of the same inputs, in units of the output."""
    return float((program(*inputs).float() - original(*inputs).float()).abs().max())


# ------------------------------------------------------------------------------------------- diffusers


def _write_diffusers(folder: Path, state: ModelState, module: FlowModule, ema: int | str) -> None:
    import diffusers

    component = folder / "model"
    component.mkdir()
    # The component samples from its weights as they are, so that they must be the average.
    average = replace(state, weights=state.chosen(int(ema)), ema1=None, ema2=None)
    write_state(average, component / _WEIGHTS_NAME, ema=0)
    _write_codec(component, module)
    write_json(
        folder / "model_index.json",
        {
            "_class_name": ["pipeline", "JitflowPipeline"],
            "_diffusers_version": diffusers.__version__,
            "model": [_COMPONENT, "JitflowModel"],
        },
    )
    write_text(
        folder / "pipeline.py",
        '"""The pipeline of this folder is a part of jitflow, which must be installed."""\n\n'
        f"from {_COMPONENT} import JitflowPipeline\n\n"
        '__all__ = ["JitflowPipeline"]\n',
    )


_WRITERS: dict[str, Callable[[Path, ModelState, FlowModule, int | str], None]] = {
    "safetensors": _write_safetensors,
    "torch_export": _write_programs,
    "diffusers": _write_diffusers,
}
_USAGE = {
    "safetensors": (
        "```python\nimport jitflow\n\nmodel = jitflow.load('model.safetensors')\n"
        "model.sample(labels=[0, 1], seeds=[0, 1]).save('images')\n```",
        "jitflow",
    ),
    "torch_export": (
        "`python sample.py --labels 0,1 --seeds 0,1 --out images` draws images with torch and Pillow alone. "
        "`velocity.pt2` takes any number of states at a time, `decoder.pt2` one; both were made on the CPU.",
        "torch",
    ),
    "diffusers": (
        "jitflow must be installed (`pip install 'jitflow[diffusers]'`), and `trust_remote_code=True` is needed: "
        "diffusers runs `pipeline.py`, which imports the pipeline from jitflow.\n\n"
        "```python\nfrom diffusers import DiffusionPipeline\n\n"
        "pipe = DiffusionPipeline.from_pretrained('.', trust_remote_code=True)\n"
        "images = pipe(class_labels=[0, 1], seeds=[0, 1]).images\n```",
        "diffusers",
    ),
}
