"""Convert checkpoints between file formats, on demand or to resume from a release's file."""

from __future__ import annotations

import logging
from pathlib import Path

from jitflow.checkpoint.find import find_model
from jitflow.checkpoint.formats import read_state, write_state
from jitflow.checkpoint.jit_release import read_optimizer
from jitflow.checkpoint.lightning import holds_counters, with_optimizer
from jitflow.checkpoint.load import check_state_dict
from jitflow.checkpoint.optimizer_state import fit_optimizer, problem_of_names
from jitflow.checkpoint.state import ModelState, errors_of_damage
from jitflow.errors import CheckpointError, ConfigError
from jitflow.training.module import FlowModule
from jitflow.training.optimizers import parameter_groups

log = logging.getLogger(__name__)


def resumable(path: Path, module: FlowModule, scratch: Path) -> Path:
    """Return a checkpoint from which Lightning can resume; a file of another code's layout is converted first.

    Args:
        path: A checkpoint file.
        module: The module to resume.
        scratch: Folder for the converted file.

    Returns:
        ``path`` itself, or the converted file.

    Raises:
        CheckpointError: If the file holds another model, no optimiser state that fits, or no record of the epochs and
            steps done.
    """
    state = read_state(path)
    check_state_dict(module.state_dict(), state.weights, path)
    state = _with_fitting_optimizer(state, module)
    if state.optimizer is None:
        why = f"no optimiser that fits ({state.optimizer_left_out})" if state.optimizer_left_out else "no optimiser"
        raise CheckpointError(f"{path} holds {why} to continue with; use it with --init_from instead")
    if state.lightning is not None:
        if not holds_counters(state):
            raise CheckpointError(
                f"{path} does not record the epochs and steps done (no loops); start a new run from its weights with "
                "--init_from instead"
            )
        return write_state(state, scratch / f"adapted-{path.stem}.ckpt") if state.is_adapted else path
    log.info("%s is a checkpoint of the JiT release, %d epochs done; converting", path, state.epoch + 1)
    return write_state(state, scratch / f"from-release-{path.stem}.ckpt")


def _with_fitting_optimizer(state: ModelState, module: FlowModule) -> ModelState:
    """Reorder the optimiser's moments to those of the module, unless its class has an optimiser of its own."""
    if state.optimizer is None or type(module).configure_optimizers is not FlowModule.configure_optimizers:
        return state
    if module.optimizer == "muon":
        groups = parameter_groups(module, 0.0, matrices=module.muon_matrices(), named=True)
        wrong = problem_of_names(state.optimizer, [group["param_names"] for group in groups])
        return with_optimizer(state, None, wrong) if wrong else state
    shapes = {name: p.shape for name, p in module.named_parameters() if p.requires_grad}
    optimizer, left_out = fit_optimizer(state.optimizer, shapes)
    if optimizer is state.optimizer:
        return state
    return with_optimizer(state, optimizer, left_out)


def convert(source: str | Path, target: str | Path, *, ema: int | str = 1, overwrite: bool = False) -> ModelState:
    """Convert a checkpoint to another file format; see :func:`jitflow.checkpoint.formats.write_state`.

    Args:
        source: File to read, or a run's folder.
        target: File to write; its suffix sets the format.
        ema: For ``.safetensors``: which weights, 0, 1, 2 or ``"all"``.
        overwrite: Whether to replace an existing target; never the source itself.

    Returns:
        The model that was written; an optimiser that does not fit the parameters is left out, with a warning.

    Raises:
        ConfigError: If the target exists.
    """
    source, target = find_model(source), Path(target)
    if target.exists():
        if source.exists() and target.samefile(source):
            raise ConfigError(f"{target} is the source itself; choose another target")
        if not overwrite:
            raise ConfigError(f"{target} exists already; choose another target, or pass --overwrite")
    state = read_state(source)
    if target.suffix == ".pth" and state.optimizer is not None:
        state = state.without_terms(but_for_sampling=False)
        # The release's order is that of its own module; a user's own class may have other groups.
        state = with_optimizer(state, *read_optimizer(state.optimizer, state.weights))
    if state.optimizer_left_out:
        log.warning("the optimiser of %s is left out: %s", source, state.optimizer_left_out)
    # Settings of a malformed checkpoint may be of kinds that the target's format does not have.
    with errors_of_damage(source):
        write_state(state, target, ema=ema)
    return state
