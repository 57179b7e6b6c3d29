"""The three file formats of a trained model, read into one form and written from it.

- ``.ckpt``: Lightning's, with everything to resume. Our ``.pth`` files are of this kind as well.
- ``.pth`` of the JiT release: ``model``, ``model_ema1``, ``model_ema2``, ``optimizer``, ``epoch``, ``args``.
- ``.safetensors``: weights with the settings in the metadata.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from jitflow import __version__
from jitflow.applications import FORMER_CLASSES
from jitflow.checkpoint.lightningdit_release import find_sections, settings_from_weights
from jitflow.checkpoint.release_args import release_args, settings_from_release_args
from jitflow.checkpoint.variant import detect_jit
from jitflow.errors import CheckpointError, ConfigError, JitflowError
from jitflow.io.files import atomic_path, existing_file, load_checkpoint
from jitflow.training.lightning_counters import counters_between_epochs

_PREFIX = "net."
_PEAK = "peak_lr"
_EXTRA = "extra."
# Before the names of parameters that are the module's own, not its network's.
_OWN = "module."
# Entries of a run, which a model alone does not have.
_RUN_ENTRIES = ("version", "module", "run_seed")
FORMATS = (".ckpt", ".pth", ".safetensors")
# Names of the applications' modules as files record them.
JIT = "jitflow.apps.images.module.JiTLightningModule"
USER_DIT = "jitflow.apps.microdoppler.module.UserConditionedDiT"
TEXT = "jitflow.apps.text.module.TextLightningModule"


@dataclass
class ModelState:
    """A trained model outside of any file format.

    Attributes:
        settings: Arguments of the module.
        weights: State dict of the module, names with the prefix ``net.``.
        ema1: First average by the same names, if there is one.
        ema2: Second average.
        optimizer: State dict of AdamW over our parameter groups, if the file holds one.
        epoch: Last finished epoch, counted from 0; -1 if none is.
        step: Optimiser steps done.
        args: The release's arguments as the file holds them; some have no counterpart among the settings.
        lightning: The whole file, if Lightning wrote it.
        module: Dotted name of the module's class, as far as the file tells; empty otherwise.
        extra: What the application keeps besides (:meth:`FlowModule.extra_state`), by name.
    """

    settings: dict[str, Any]
    weights: dict[str, Tensor]
    ema1: dict[str, Tensor] | None = None
    ema2: dict[str, Tensor] | None = None
    optimizer: dict[str, Any] | None = None
    epoch: int = -1
    step: int = 0
    args: dict[str, Any] = field(default_factory=dict)
    lightning: dict[str, Any] | None = None
    module: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def chosen(self, ema: int) -> dict[str, Tensor]:
        """Return an average (1 or 2) or the weights (0); raise CheckpointError if the file has no such average."""
        if ema not in (0, 1, 2):
            raise ConfigError(f"ema must be 0, 1 or 2; got {ema}")
        found = (self.weights, self.ema1, self.ema2)[ema]
        if found is None:
            raise CheckpointError(f"the checkpoint has no EMA {ema}; use ema=0 for the weights themselves")
        return {**self.weights, **found}


def read_state(path: str | Path, **given: Any) -> ModelState:
    """Read a trained model from any of the formats, decided by content.

    Args:
        path: The file.
        given: Settings that win over the file's, needed where neither file nor shapes tell (``img_size``,
            ``in_context_start``).

    Returns:
        The model.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it is damaged, of no known format, unsafe to read, or has parts of the wrong kind.
    """
    path = existing_file(path, what="checkpoint")
    with errors_of_damage(path):
        state = _read_any(path, given)
        state.module = FORMER_CLASSES.get(state.module, state.module)
    for what, tensors in (("weights", state.weights), ("first average", state.ema1), ("second average", state.ema2)):
        if tensors is not None and not _is_state_dict(tensors):
            raise CheckpointError(f"{path} is damaged: its {what} are no tensors by name")
    if not all(isinstance(name, str) for name in state.settings):
        raise CheckpointError(f"{path} is damaged: its settings are no values by name")
    if not isinstance(state.module, str):
        raise CheckpointError(f"{path} is damaged: the name of its class is no text")
    if state.optimizer is not None and not _is_optimizer_state(state.optimizer):
        raise CheckpointError(f"{path} is damaged: its optimiser is no state and groups of parameters")
    return state


@contextmanager
def errors_of_damage(path: str | Path) -> Iterator[None]:
    """Turn what values of the wrong kind end in into one CheckpointError.

    Args:
        path: The file, for the message.
    """
    try:
        yield
    except JitflowError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).split("\n")[0][:200]
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}, {reason}") from error


def _is_state_dict(tensors: object) -> bool:
    return isinstance(tensors, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
    )


def _is_optimizer_state(optimizer: object) -> bool:
    if not isinstance(optimizer, Mapping) or not isinstance(optimizer.get("state"), Mapping):
        return False
    groups = optimizer.get("param_groups")
    return isinstance(groups, list) and all(
        isinstance(group, Mapping) and isinstance(group.get("params"), list) for group in groups
    )


def _read_any(path: Path, given: dict[str, Any]) -> ModelState:
    if path.suffix == ".safetensors":
        return _read_safetensors(path, given)
    checkpoint = load_checkpoint(path)
    if "state_dict" in checkpoint and "hyper_parameters" in checkpoint:
        return ModelState(
            settings={**checkpoint["hyper_parameters"], **given},
            weights=checkpoint["state_dict"],
            ema1=checkpoint.get("model_ema1"),
            ema2=checkpoint.get("model_ema2"),
            optimizer=(checkpoint.get("optimizer_states") or [None])[0],
            epoch=int(checkpoint.get("epoch", -1)),
            step=int(checkpoint.get("global_step", 0)),
            args=dict(checkpoint.get("args", {})),
            lightning=checkpoint,
            module=checkpoint.get("jitflow", {}).get("module", ""),
            extra=dict(checkpoint.get("jitflow", {})),
        )
    sections = find_sections(checkpoint)
    if sections:
        return _from_lightningdit(sections, given)
    if "model" in checkpoint:
        return _read_release(checkpoint, path, given)
    raise CheckpointError(
        f"{path} is neither a Lightning checkpoint (state_dict, hyper_parameters) nor one of the JiT or LightningDiT "
        f"releases (model, ema); "
        f"it holds {', '.join(map(str, list(checkpoint)[:8]))}"
    )


def write_state(state: ModelState, path: str | Path, *, ema: int | str = 1) -> Path:
    """Write a trained model in the format of the path's suffix, whole or not at all.

    Args:
        state: The model.
        path: Ends in ``.ckpt``, ``.pth`` (the JiT release's format) or ``.safetensors``.
        ema: For ``.safetensors``: the weights to write, 1 or 2 for an average, 0 for the weights themselves,
            ``"all"`` for all of them in one file.

    Returns:
        The path.

    Raises:
        ConfigError: If the suffix is unknown.
        CheckpointError: If what is asked for is not there.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        _write_safetensors(state, path, ema)
    elif path.suffix == ".pth":
        if state.module in (USER_DIT, TEXT):
            raise ConfigError(
                f"{path}: .pth is the JiT release's format, for JiT on images; write .ckpt or .safetensors"
            )
        with atomic_path(path) as temporary:
            torch.save(to_release(state), temporary)
    elif path.suffix == ".ckpt":
        with atomic_path(path) as temporary:
            torch.save(to_lightning(state), temporary)
    else:
        raise ConfigError(f"{path}: the suffix must be one of {', '.join(FORMATS)}")
    return path


# ----------------------------------------------------------------------------------------- JiT release


def _read_release(checkpoint: dict[str, Any], path: Path, given: dict[str, Any]) -> ModelState:
    args = checkpoint.get("args", {})
    args = vars(args) if isinstance(args, argparse.Namespace) else dict(args or {})
    weights = checkpoint["model"]
    if not isinstance(weights, Mapping) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise CheckpointError(f"{path}: the entry 'model' is no state dict")
    # Whether it was saved from inside DistributedDataParallel or torch.compile makes no difference.
    weights = {name.removeprefix("module.").replace("_orig_mod.", ""): value for name, value in weights.items()}
    optimizer = checkpoint.get("optimizer")
    ours = checkpoint.get("jitflow", {}).get("settings", {})
    settings = settings_from_release_args(args)
    if "learning_rate" not in settings and optimizer is not None:
        settings["learning_rate"] = float(optimizer["param_groups"][0]["lr"])
    network = {name.removeprefix(_PREFIX): value for name, value in weights.items()}
    # The weights know the network better than the arguments, in which a variant may be misnamed.
    settings.update(ours or detect_jit(network, {**args, **given}))
    state = ModelState(
        settings={**settings, **{k: v for k, v in given.items() if k != "in_context_start"}},
        weights=weights,
        ema1=checkpoint.get("model_ema1"),
        ema2=checkpoint.get("model_ema2"),
        epoch=int(checkpoint.get("epoch", -1)),
        args=args,
        module=JIT,
    )
    if optimizer is not None:
        state.optimizer = _check_optimizer(optimizer, weights, path)
        state.step = int(max((float(s.get("step", 0)) for s in optimizer["state"].values()), default=0))
    return state


def optimizer_names(weights: Mapping[str, Tensor]) -> list[str]:
    """Name the parameters in the order of the optimiser's state: vectors and biases first, then the others.

    The release's order and ours alike (:func:`jitflow.training.optim.parameter_groups`).

    Args:
        weights: State dict of the module.
    """
    trained = [name for name in weights if name != f"{_PREFIX}pos_embed"]
    no_decay = [name for name in trained if weights[name].ndim < 2 or name.endswith(".bias")]
    return no_decay + [name for name in trained if name not in set(no_decay)]


def _check_optimizer(optimizer: dict[str, Any], weights: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Match moments with parameters by name; torch itself would take moments of any shape."""
    names = optimizer_names(weights)
    places = [place for group in optimizer["param_groups"] for place in group["params"]]
    if len(places) != len(names):
        raise CheckpointError(f"{path}: the optimiser holds {len(places)} parameters, the network trains {len(names)}")
    for name, place in zip(names, places, strict=True):
        for moment, value in optimizer["state"].get(place, {}).items():
            if moment.startswith("exp_avg") and value.shape != weights[name].shape:
                raise CheckpointError(
                    f"{path}: {moment} of {name} has shape {tuple(value.shape)}, "
                    f"the parameter {tuple(weights[name].shape)}"
                )
    return optimizer


def to_release(state: ModelState) -> dict[str, Any]:
    """Make a checkpoint as the JiT release writes it."""
    checkpoint: dict[str, Any] = {
        "model": state.weights,
        "epoch": state.epoch,
        "args": argparse.Namespace(**(state.args or release_args(state.settings))),
        "model_ema1": state.chosen(1) if state.ema1 is not None else dict(state.weights),
        "model_ema2": state.chosen(2) if state.ema2 is not None else dict(state.weights),
        # What the release has no argument for (prediction, time shift, sizes of the network); it ignores this entry.
        "jitflow": {"version": __version__, "settings": state.settings},
    }
    if state.optimizer is not None:
        # The peak of our schedule is not an option of AdamW.
        groups = [{k: v for k, v in g.items() if k != _PEAK} for g in state.optimizer["param_groups"]]
        checkpoint["optimizer"] = {"state": state.optimizer["state"], "param_groups": groups}
    return checkpoint


def _from_lightningdit(sections: dict[str, dict[str, Tensor]], given: dict[str, Any]) -> ModelState:
    weights = sections.get("model") or sections["ema"]
    prefixed = {name: {_PREFIX + key: value for key, value in section.items()} for name, section in sections.items()}
    return ModelState(
        settings={**settings_from_weights(weights, given), **{k: v for k, v in given.items() if k != "num_heads"}},
        weights=prefixed.get("model") or prefixed["ema"],
        ema1=prefixed.get("ema"),
        module=USER_DIT,
    )


# ------------------------------------------------------------------------------------------- Lightning


def to_lightning(state: ModelState) -> dict[str, Any]:
    """Make a checkpoint that Lightning resumes from: the epoch after ``state.epoch`` comes next."""
    if state.lightning is not None:
        return state.lightning
    checkpoint: dict[str, Any] = {
        "epoch": state.epoch,
        "global_step": state.step,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": state.weights,
        "loops": counters_between_epochs(state.epoch + 1, state.step),
        "callbacks": {},
        "lr_schedulers": [],
        "optimizer_states": [],
        "hparams_name": "kwargs",
        "hyper_parameters": state.settings,
        "jitflow": {**state.extra, "version": __version__, "module": state.module, "run_seed": None},
        "model": state.weights,
        "args": state.args or release_args(state.settings),
    }
    for key, average in (("model_ema1", state.ema1), ("model_ema2", state.ema2)):
        if average is not None:
            checkpoint[key] = average
    if state.optimizer is not None:
        peak = state.settings.get("learning_rate")
        groups = [{**group, _PEAK: peak or group["lr"]} for group in state.optimizer["param_groups"]]
        checkpoint["optimizer_states"] = [{"state": state.optimizer["state"], "param_groups": groups}]
        checkpoint["optimizer"] = checkpoint["optimizer_states"][0]
    return checkpoint


# ----------------------------------------------------------------------------------------- safetensors


def _write_safetensors(state: ModelState, path: Path, ema: int | str) -> None:
    if ema == "all":
        tensors = dict(state.weights)
        for prefix, average in (("ema1.", state.ema1), ("ema2.", state.ema2)):
            tensors.update({prefix + name: value for name, value in (average or {}).items()})
    elif ema in (0, 1, 2, "0", "1", "2"):
        tensors = state.chosen(int(ema))
    else:
        raise ConfigError(f"ema must be 0, 1, 2 or all; got {ema!r}")
    network = {_name_in_file(name): value.detach().contiguous() for name, value in tensors.items()}
    metadata = {
        "format": "pt",
        "jitflow": __version__,
        "settings": json.dumps(state.settings),
        "weights": "all" if ema == "all" else ("weights", "ema1", "ema2")[int(ema)],
        "epoch": str(state.epoch),
        "step": str(state.step),
        "module": state.module,
    }
    plain, kept = split_tensors({k: v for k, v in state.extra.items() if k not in _RUN_ENTRIES})
    metadata["extra"] = json.dumps(plain)
    with atomic_path(path) as temporary:
        # Clones, since the averages may share what did not change with the weights.
        tensors = {**network, **{_EXTRA + name: value for name, value in kept.items()}}
        save_file({name: value.clone() for name, value in tensors.items()}, temporary, metadata=metadata)


def _name_in_file(name: str) -> str:
    """Name of a tensor in a safetensors file: the network's without its prefix, behind that of the average."""
    average = next((p for p in ("ema1.", "ema2.") if name.startswith(p)), "")
    rest = name.removeprefix(average)
    return average + (rest.removeprefix(_PREFIX) if rest.startswith(_PREFIX) else _OWN + rest)


def _read_safetensors(path: Path, given: dict[str, Any]) -> ModelState:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        settings = json.loads(metadata.get("settings", "{}"))
        extra = json.loads(metadata.get("extra", "{}"))
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read; it is damaged or no safetensors file ({error})") from None
    if not isinstance(settings, dict) or not isinstance(extra, dict):
        raise CheckpointError(f"{path} is damaged: its settings are no values by name")
    kept = {name.removeprefix(_EXTRA): tensors.pop(name) for name in list(tensors) if name.startswith(_EXTRA)}
    parts: dict[str, dict[str, Tensor]] = {"": {}, "ema1.": {}, "ema2.": {}}
    for name, value in tensors.items():
        prefix = next((p for p in ("ema1.", "ema2.") if name.startswith(p)), "")
        rest = name.removeprefix(prefix)
        own = rest.startswith(_OWN)
        parts[prefix][rest.removeprefix(_OWN) if own else _PREFIX + rest.removeprefix(_PREFIX)] = value
    module = metadata.get("module", "")
    if not settings:
        network = {name.removeprefix(_PREFIX): v for name, v in parts[""].items()}
        sections = find_sections(network)
        if sections:
            return _from_lightningdit(sections, given)
        settings, module = detect_jit(network, given), JIT
    # JSON knows no tuples.
    for name in ("cfg_interval", "img_size", "latent_shape"):
        if isinstance(settings.get(name), list):
            settings[name] = tuple(settings[name])
    return ModelState(
        settings={**settings, **{k: v for k, v in given.items() if k != "in_context_start"}},
        weights=parts[""],
        # A file of one average alone holds it as the weights; it is that average all the same.
        ema1=parts["ema1."] or (parts[""] if metadata.get("weights") == "ema1" else None),
        ema2=parts["ema2."] or (parts[""] if metadata.get("weights") == "ema2" else None),
        epoch=int(metadata.get("epoch", -1)),
        step=int(metadata.get("step", 0)),
        module=module,
        extra=join_tensors(extra, kept),
    )


def split_tensors(extra: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Part nested dictionaries into their plain values and their tensors, which are named ``outer.inner``."""
    plain: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, value in extra.items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value
        elif isinstance(value, Mapping):
            plain[name], inner = split_tensors(value, f"{prefix}{name}.")
            tensors.update(inner)
        else:
            plain[name] = value
    return plain, tensors


def join_tensors(plain: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Put back together what :func:`split_tensors` parted."""
    for name, value in tensors.items():
        *outer, last = name.split(".")
        target = plain
        for key in outer:
            target = target.setdefault(key, {})
        target[last] = value
    return plain
