"""Read a trained model from any checkpoint format (detected by content) and write it in any (chosen by suffix).

- ``.ckpt``: Lightning's, with everything to resume. This library's ``.pth`` files are of this kind too.
- ``.pth`` of the JiT release: ``model``, ``model_ema1``, ``model_ema2``, ``optimizer``, ``epoch``, ``args``.
- ``.safetensors``: weights, with the settings in the metadata.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from jitflow.checkpoint.bare_weights import find_bare_weights, from_bare_weights
from jitflow.checkpoint.find import find_model
from jitflow.checkpoint.jit_release import from_jit_release, to_jit_release
from jitflow.checkpoint.lightning import from_lightning, is_lightning, to_lightning
from jitflow.checkpoint.lightningdit_release import find_sections, from_lightningdit_release
from jitflow.checkpoint.safetensors import read_safetensors, write_safetensors
from jitflow.checkpoint.state import ModelState, application_of, check_state, errors_of_damage
from jitflow.errors import CheckpointError, ConfigError
from jitflow.io.files import atomic_path, existing_file, load_checkpoint

log = logging.getLogger(__name__)
FORMATS = (".ckpt", ".pth", ".safetensors")


def read_state(path: str | Path, **given: Any) -> ModelState:
    """Read a trained model from a checkpoint of any format, which is detected by content.

    Args:
        path: The file, or a run's folder.
        given: Settings that override the file's; needed if neither file nor shapes determine them (``img_size``,
            ``in_context_start``).

    Returns:
        The model.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it is damaged, of an unknown format, unsafe to read, or malformed.
    """
    path = existing_file(find_model(path), what="checkpoint")
    with errors_of_damage(path):
        state = _read_any(path, given)
    check_state(state, path)
    return state


def _read_any(path: Path, given: Mapping[str, Any]) -> ModelState:
    if path.suffix == ".safetensors":
        return read_safetensors(path, given)
    content = load_checkpoint(path)
    if is_lightning(content):
        return from_lightning(content, given)
    sections = find_sections(content)
    if sections:
        return from_lightningdit_release(sections, given)
    if "model" in content:
        return from_jit_release(content, path, given)
    weights = find_bare_weights(content)
    if weights is not None:
        return from_bare_weights(weights, path, given)
    raise CheckpointError(
        f"{path} is neither a Lightning checkpoint (state_dict, hyper_parameters) nor one of the JiT or LightningDiT "
        f"releases (model, ema) nor a state dict; it holds {', '.join(map(str, list(content)[:8]))}"
    )


def write_state(state: ModelState, path: str | Path, *, ema: int | str = 1) -> Path:
    """Write a checkpoint of a trained model, atomically, in the format of the path's suffix.

    Args:
        state: The model.
        path: Ends in ``.ckpt``, ``.pth`` (the JiT release's format) or ``.safetensors``.
        ema: For ``.safetensors``: the weights to write, 1 or 2 for an average, 0 for the weights themselves,
            ``"all"`` for all of them in one file.

    Returns:
        The path.

    Raises:
        ConfigError: If the suffix is unknown, or the release's format cannot hold this application's models.
        CheckpointError: If the model lacks the requested average.
    """
    path = Path(path)
    if path.suffix != ".ckpt":
        kept = state.without_terms()
        # The release's code knows the network's parameters only.
        state = kept.without_terms(but_for_sampling=path.suffix != ".pth")
        if state.weights.keys() != kept.weights.keys():
            log.warning("%s leaves out %s, for which .pth has no place", path, ", ".join(kept.settings["loss_terms"]))
    if path.suffix == ".safetensors":
        write_safetensors(state, path, ema=ema)
    elif path.suffix == ".pth":
        instead = "write .ckpt or .safetensors"
        if not application_of(state, path, otherwise=instead).module.has_release_format:
            raise ConfigError(f"{path}: .pth is the JiT release's format, for JiT on images; {instead}")
        with atomic_path(path) as temporary:
            torch.save(to_jit_release(state), temporary)
    elif path.suffix == ".ckpt":
        with atomic_path(path) as temporary:
            torch.save(to_lightning(state), temporary)
    else:
        raise ConfigError(f"{path}: the suffix must be one of {', '.join(FORMATS)}")
    return path
