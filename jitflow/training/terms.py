"""Loss terms that a module adds to its main loss, with or without parameters of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from zlib import crc32

import torch
from torch import Tensor, nn

from jitflow.core.loss import cosine_per_sample
from jitflow.core.path import PREDICTIONS
from jitflow.core.seeding import mix_seeds
from jitflow.errors import CheckpointError, ConfigError
from jitflow.layers.features import check_offers_features
from jitflow.training.outputs import StepOutputs

if TYPE_CHECKING:
    from jitflow.training.loss import FlowLoss

TERMS_PREFIX = "loss_terms."
"""Prefix of the parameters of loss terms in the state dict of a module."""
TERMS_RECORD = "loss_terms"
"""Entry of a checkpoint with the checksums of loss terms' encoders."""
Draws = Mapping[str, Mapping[str, Tensor]]
"""Random numbers of every term, by its name and then by the names that it chose."""


@dataclass(frozen=True)
class FlowState:
    """Tensors of a training step after the forward pass, for loss terms.

    Attributes:
        data: Data before encoding, shape ``(B, *)``; None if only the model space was given.
        x1: Data in the model space, shape ``(B, C, H, W)``.
        x_t: Path sample, shape ``(B, C, H, W)``.
        t: Time, shape ``(B,)``.
        output: The network's output, shape ``(B, C, H, W)``, float32.
        v_pred: Predicted velocity, shape ``(B, C, H, W)``.
        v_t: True velocity, shape ``(B, C, H, W)``.
        weight: Weight of each element, broadcastable to ``(B, C, H, W)``; None for equal weights.
        labels: Labels as the network got them, after label dropout, shape ``(B,)``.
        classes: Labels of the data, before label dropout, shape ``(B,)``; None if unknown.
        features: Inner features of the network that a term asked for, by name, in the network's precision.
        draws: Random numbers of every term, by its name and then by the names of :meth:`LossModule.draw`.
        velocity_at: Runs the network once more: its velocity at other states and times, shapes ``(B, C, H, W)``,
            ``(B,)`` -> ``(B, C, H, W)``, with the same labels and hint, and without a gradient.
    """

    data: Any
    x1: Tensor
    x_t: Tensor
    t: Tensor
    output: Tensor
    v_pred: Tensor
    v_t: Tensor
    weight: Tensor | None = None
    labels: Tensor | None = None
    classes: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    draws: Draws = field(default_factory=dict)
    velocity_at: Callable[[Tensor, Tensor], Tensor] | None = None


class LossTerm(Protocol):
    """A loss that is added to the main loss.

    A term that optimises the features of a judge, such as a Frechet distance, lists the names of the extractors as a
    further attribute, ``feature_spaces``; checkpoints keep them (:mod:`jitflow.training.trained_on`).

    Attributes:
        name: Name in the logs, ``train/<name>``.
        weight: Factor in the sum of losses.
    """

    name: str
    weight: float

    def __call__(self, state: FlowState) -> Tensor:
        """Compute the loss of each sample, shape ``(B,)``, float32, without its weight."""
        ...


class LossModule(nn.Module):
    """Base class of loss terms that own parameters or a frozen encoder, or read inner features or random numbers.

    Trained parameters are optimised with the network's, and stored in checkpoints under ``loss_terms.<name>.``. Exports
    leave them out, unless the term is used in sampling.

    Args:
        weight: Factor in the sum of losses.

    Attributes:
        name: Name in the logs and in checkpoints; of a subclass.
        features: Names of the inner features that it reads, see :mod:`jitflow.layers.features`.
        feature_spaces: Names of the feature extractors of judges that it optimises, see
            :mod:`jitflow.training.trained_on`.
        is_averaged: Whether its parameters have averages like the network's.
        used_in_sampling: Whether a sampler needs its parameters, which then are averaged and exported.
        progress: Share of the training that is done, in ``[0, 1]``, set before each :meth:`draw`; 1 in validation,
            None in a training without an end.
        replaces_step: Whether it computes the whole training step, :meth:`train_step`, in place of the main loss.
        summary: How a term that replaces the step is described where a model says how it was made.

    Raises:
        ConfigError: If the weight is negative.
    """

    name: str
    features: Sequence[str] = ()
    feature_spaces: Sequence[str] = ()
    is_averaged: bool = False
    used_in_sampling: bool = False
    progress: float | None = 1.0
    replaces_step: bool = False
    summary: str = ""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = check_weight(weight)

    def build(self, module: FlowLoss) -> None:
        """Create the parameters for a module, once; nothing by default.

        The random generator is seeded by the term's name, and restored afterwards.

        Args:
            module: The module, with its network and codec.
        """

    def draw(self, x1: Tensor, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Draw the term's random numbers of a batch, later in ``state.draws[self.name]``; none by default.

        Args:
            x1: Data in the model space, shape ``(B, C, H, W)``.
            generator: The term's own generator, on the CPU. In training it is seeded by (seed, epoch, batch, rank), in
                validation always alike; the draws of others do not depend on it.
        """
        return {}

    def record(self) -> dict[str, Any]:
        """Return plain values that a checkpoint must agree with when training resumes, such as checksums."""
        return {name: part.record() for name, part in self.named_modules() if isinstance(part, FrozenEncoder)}

    def pass_size(self, batch_size: int | None) -> int | None:
        """Return how many samples of a batch a term that replaces the step has in memory at a time; None if unknown.

        Args:
            batch_size: Samples of a batch, if known.
        """
        return batch_size

    def start(self, module: FlowLoss) -> None:
        """Prepare the training on its device, after a checkpoint was restored; nothing by default.

        Args:
            module: The module, with its trainer.
        """

    def train_step(self, module: FlowLoss, batch: Any, seeds: tuple[int, int, int]) -> StepOutputs:
        """Compute a training step, for a term that replaces it.

        Args:
            module: The module.
            batch: Batch from the data module.
            seeds: Seed of the run, epoch and batch, the same on every process.

        Returns:
            The loss with its gradient, and parts to log as ``train/<name>``.
        """
        raise NotImplementedError

    def forward(self, state: FlowState) -> Tensor:
        """Compute the loss of each sample, shape ``(B,)``, float32, without its weight."""
        raise NotImplementedError


class FrozenEncoder(nn.Module):
    """A network that a loss term reads and nobody trains: always in evaluation mode, and in no checkpoint.

    A checkpoint only records the checksum of its file, which must be the same when training resumes.

    Args:
        net: The encoder.
        sha256: Checksum of the file that its weights come from.
    """

    def __init__(self, net: nn.Module, sha256: str) -> None:
        super().__init__()
        self.net = net.requires_grad_(False).eval()
        self.sha256 = sha256
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_pre_hook(_keep_own)

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stay in evaluation mode, whatever the mode of the model."""
        return super().train(False)

    def record(self) -> str:
        """Return what a checkpoint records of the encoder's file."""
        return f"sha256:{self.sha256}"

    def forward(self, *inputs: Any) -> Any:
        """Encode; gradients reach the inputs."""
        return self.net(*inputs)


def _leave_out(encoder: nn.Module, state: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    """Remove an encoder's tensors from a state dict."""
    for name in [name for name in state if name.startswith(prefix)]:
        del state[name]


def _keep_own(encoder: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """Load an encoder's own tensors in place of those that a state dict lacks."""
    state.update({f"{prefix}net.{name}": value for name, value in encoder.get_submodule("net").state_dict().items()})


class LossTerms(nn.Module):
    """The loss terms of a module, in order; those that are modules are registered under their names."""

    def __init__(self) -> None:
        super().__init__()
        self._terms: list[LossTerm] = []

    def add(self, term: LossTerm, module: FlowLoss) -> None:
        """Add a term and create its parameters.

        Args:
            term: The term.
            module: The module whose network it reads.

        Raises:
            ConfigError: If its name is taken or cannot be part of a parameter's name, or the network offers no feature
                that it reads.
        """
        if not term.name.isidentifier():
            raise ConfigError(f"the name of a loss term must be one word; got {term.name!r}")
        if term.name in (*PREDICTIONS, *(other.name for other in self._terms)):
            raise ConfigError(f"there is already a loss {term.name}; give the loss term another name")
        if isinstance(term, LossModule):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(crc32(term.name.encode()))
                term.build(module)
        check_offers_features(module.net, getattr(term, "features", ()))
        if isinstance(term, nn.Module):
            self.add_module(term.name, term)
        self._terms.append(term)
        if self.step_owner is not None and len(self._terms) > 1:
            raise ConfigError(
                f"the loss term {self.step_owner.name} replaces the training step, so that no other has an effect; "
                "leave the others out"
            )

    def __iter__(self) -> Iterator[LossTerm]:
        return iter(self._terms)

    def __len__(self) -> int:
        return len(self._terms)

    @property
    def guide(self) -> Any:
        """The term whose inner layer guides the sampler; None if there is none."""
        return next((term for term in self._terms if hasattr(term, "guide")), None)

    def pass_size(self, batch_size: int | None) -> int | None:
        """Return how many samples of a batch are in memory at a time, see :meth:`LossModule.pass_size`."""
        return batch_size if self.step_owner is None else self.step_owner.pass_size(batch_size)

    @property
    def step_owner(self) -> LossModule | None:
        """The term that replaces the training step; None if there is none."""
        return next((term for term in self._terms if isinstance(term, LossModule) and term.replaces_step), None)

    def start(self, module: FlowLoss) -> None:
        """Prepare every term for a training, see :meth:`LossModule.start`."""
        for term in self._terms:
            if isinstance(term, LossModule):
                term.start(module)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the inner features that the terms read, each once."""
        return tuple(dict.fromkeys(name for term in self._terms for name in getattr(term, "features", ())))

    def draw(self, x1: Tensor, *seeds: int, progress: float | None = 1.0) -> Draws:
        """Draw the random numbers of every term for a batch.

        Args:
            x1: Data in the model space, shape ``(B, C, H, W)``.
            seeds: Whole numbers that determine them, such as (seed, epoch, batch).
            progress: Share of the training that is done, in ``[0, 1]``; None if it has no end.
        """
        draws = {}
        for term in self._terms:
            if isinstance(term, LossModule):
                term.progress = progress
                generator = torch.Generator().manual_seed(mix_seeds(crc32(term.name.encode()), *seeds))
                draws[term.name] = {name: value.to(x1.device) for name, value in term.draw(x1, generator).items()}
        return draws

    def losses(self, state: FlowState) -> dict[str, Tensor]:
        """Compute the weighted loss of every term, by name, each of shape ``(B,)``, float32.

        Args:
            state: Tensors of the step.
        """
        return {term.name: term.weight * term(state) for term in self._terms if term is not self.step_owner}

    def saved_record(self) -> dict[str, Any]:
        """Return the entry of a checkpoint with what terms must find again when training resumes; empty for nothing."""
        found = {term.name: term.record() for term in self._terms if isinstance(term, LossModule)}
        found = {name: record for name, record in found.items() if record}
        return {TERMS_RECORD: found} if found else {}

    def check_record(self, checkpoint: Mapping[str, Any]) -> None:
        """Check the entry of :meth:`saved_record`.

        Args:
            checkpoint: The entries that this library adds to a checkpoint.

        Raises:
            CheckpointError: If a term had another encoder.
        """
        recorded, now = checkpoint.get(TERMS_RECORD, {}), self.saved_record().get(TERMS_RECORD, {})
        for term in now.keys() & recorded.keys():
            for name, value in now[term].items():
                if recorded[term].get(name) != value:
                    raise CheckpointError(
                        f"the loss term {term} was trained with another {name} ({recorded[term].get(name)}) than this "
                        f"one ({value}); give it the same file"
                    )

    def without_averages(self) -> set[str]:
        """Return the names of the parameters that have no averages, such as ``projector.net.weight``."""
        left_out = set()
        for term in self._terms:
            if isinstance(term, LossModule):
                averaged = term.is_averaged or term.used_in_sampling
                parts = [(name, part) for name, part in term.named_modules() if isinstance(part, FrozenEncoder)]
                for name, part in parts if averaged else [("", term)]:
                    prefix = f"{term.name}.{name}." if name else f"{term.name}."
                    left_out |= {prefix + inner for inner, _ in part.named_parameters()}
        return left_out


def check_weight(weight: float) -> float:
    """Return the weight of a loss term; raise ConfigError if it is negative."""
    if not weight >= 0:
        raise ConfigError(f"the weight of a loss term must not be negative; got {weight}")
    return weight


class CosineTerm:
    """Cosine loss on the direction of the velocity, the LightningDiT release's second loss.

    See :func:`jitflow.core.loss.cosine_per_sample`.

    Args:
        weight: Factor in the sum of losses.

    Raises:
        ConfigError: If the weight is negative.
    """

    name = "cosine"

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = check_weight(weight)

    def __call__(self, state: FlowState) -> Tensor:
        """Compute the cosine loss of each sample, shape ``(B,)``."""
        return cosine_per_sample(state.v_pred, state.v_t)
