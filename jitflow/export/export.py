"""Export a trained model to a folder as safetensors, torch.export programs or a diffusers pipeline."""

from __future__ import annotations

import glob
import importlib.util
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from jitflow.applications import get_application
from jitflow.checkpoint.find import find_model
from jitflow.checkpoint.formats import read_state
from jitflow.checkpoint.load import load_module
from jitflow.checkpoint.state import ModelState, errors_of_damage
from jitflow.codec.latent import LatentCodec
from jitflow.errors import ConfigError, unknown_name
from jitflow.export import diffusers_folder, program_folder, safetensors_folder
from jitflow.export.model_card import UNKNOWN_LICENSE, find_data, find_reports, model_card
from jitflow.export.sampling_record import sampling_record
from jitflow.io.files import writable_folder, write_errors, write_text
from jitflow.training.module import FlowModule
from jitflow.training.trained_on import MADE_BY

Format = Literal["safetensors", "torch_export", "diffusers"]
FORMATS: tuple[Format, ...] = get_args(Format)


@dataclass(frozen=True)
class _Form:
    """How a format is written, and what its card says.

    Attributes:
        write: Writes into a folder: of a state, its module and an average.
        usage: Section of the card.
        library: Library that the card names.
    """

    write: Callable[[Path, ModelState, FlowModule, int | str], None]
    usage: str
    library: str


_FORMS: dict[str, _Form] = {
    "safetensors": _Form(safetensors_folder.write_safetensors, safetensors_folder.USAGE, safetensors_folder.LIBRARY),
    "torch_export": _Form(program_folder.write_programs, program_folder.USAGE, program_folder.LIBRARY),
    "diffusers": _Form(diffusers_folder.write_diffusers, diffusers_folder.USAGE, diffusers_folder.LIBRARY),
}


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
    """Export a checkpoint to a new folder with a model card; the folder is created atomically.

    Args:
        checkpoint: A checkpoint of any format, or a run's folder.
        target: Folder to create; if it exists it must be empty.
        format: ``safetensors``: the weights, bit-equal. ``torch_export``: programs that need only torch, and a script
            that samples with them. ``diffusers``: a folder for ``DiffusionPipeline.from_pretrained``.
        ema: Average to export, 1 or 2; 0 for the weights themselves; ``"all"`` for all of them (safetensors only).
        vavae_path: File of the autoencoder that made the latents, if the checkpoint does not hold its codec.
        report: A report of ``jitflow evaluate`` for the model card; by default those beside the checkpoint.
        license: Identifier of the weights' licence for the model card.
        dry_run: Check everything possible without exporting, and write nothing.

    Returns:
        The folder.

    Raises:
        ConfigError: If the target exists, the format does not suit the model, or a package is not installed.
        CheckpointError: If the checkpoint cannot be read, or the exported program gives other results.
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
    checkpoint = find_model(checkpoint)
    state = read_state(checkpoint)
    takes = get_application(state.application).exports if state.application else FORMATS
    if format not in takes:
        raise ConfigError(f"{state.application} models are exported as {', '.join(takes)}, not as {format}")
    if ema != "all":
        state.chosen(int(ema))
    module = _load(checkpoint, state, vavae_path, needs_images=format != "safetensors")
    if ema in (1, 2):
        module.warn_of_start(int(ema))
    reports = find_reports(checkpoint, ema=ema, given=report)
    if dry_run:
        return target
    writable_folder(target.parent)
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.????????"):
        # Of an export that was killed.
        shutil.rmtree(leftover, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        with write_errors(target):
            # The temporary folder is private to the user; the folder inside it has ordinary permissions.
            made = scratch / "made"
            made.mkdir()
            form = _FORMS[format]
            form.write(made, state, module, ema)
            weights = {0: "the weights themselves", "all": "weights and averages"}
            with errors_of_damage(checkpoint):
                card = model_card(
                    title=str(state.settings.get("model_name", type(module).__name__)),
                    settings={k: v for k, v in state.settings.items() if k != "tokenizer"},
                    sampling=sampling_record(module),
                    weights=weights.get(ema, f"EMA {ema} of its weights"),
                    data=find_data(checkpoint, state.extra),
                    reports=reports,
                    trained_on=state.trained_on,
                    made_by=str(state.extra.get(MADE_BY) or ""),
                    license=license,
                    usage=form.usage,
                    library=form.library,
                )
            write_text(made / "README.md", card)
            made.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _load(checkpoint: Path, state: ModelState, vavae_path: str | Path | None, *, needs_images: bool) -> FlowModule:
    """Load the module, with the codec that its images need."""
    module = load_module(checkpoint)
    if vavae_path is not None:
        module.load_codec(vavae_path)
    elif needs_images and isinstance(module.codec, LatentCodec):
        # The error says which codec made the latents and what to pass.
        module.codec.image_codec()
    return module
