"""Frechet post-training: train a generator of few steps on the distance of its population to real images.

Shapes: B micro-batch, N batch over all processes, D features.

Each step runs over its micro-batches twice. The first pass, without a graph, adds up ``f`` and ``f f^T`` over the batch
and all processes; the distance's gradient in these sums gives each image the coefficient ``g_mu + 2 G_M2 f``. The
second pass runs every micro-batch backward through ``coefficient . f``. So the gradient is that of the whole batch,
and the memory that of one micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from jitflow.core.seeding import mix_seeds, noise_from_seeds
from jitflow.errors import ConfigError, check_count
from jitflow.io.progress import meter
from jitflow.posttraining.frechet import Moments, coefficients
from jitflow.posttraining.generator import generate_pixels, with_gradient
from jitflow.posttraining.population import Population, Sums
from jitflow.posttraining.spaces import FeatureSpace, load_spaces
from jitflow.training.loss import FlowLoss
from jitflow.training.methods.encoders import check_pixels
from jitflow.training.outputs import StepOutputs
from jitflow.training.terms import LossModule

# Names of independent random streams drawn from one seed.
_STREAM_NOISE, _STREAM_STEPS, _STREAM_FIRST = 11, 12, 13
_PRECISIONS = ("32-true", "64-true", "bf16-mixed")


class FrechetLoss(LossModule):
    """Frechet distance of the generated population to real images, in place of the flow's own loss.

    Noise of an image follows from (seed, epoch, index); dropout is off, as in sampling. Each batch is generated with
    one number of steps, drawn from ``steps``.

    Args:
        extractors: Names of feature extractors, separated by commas, see
            :func:`jitflow.evaluation.extractors.make_extractor`. Each distance is divided by its own value.
        reference: Real images or their statistics, see :func:`jitflow.evaluation.reference.load_references`.
        steps: Numbers of network calls to train for.
        micro_batch_size: Images that are generated with a graph at a time.
        decay: Weight of earlier batches in the moments of the population, in ``[0, 1)``.
        num_first: Images that the moments are filled with before the first step, for each number of steps.

    Attributes:
        feature_spaces: Names of the extractors, which are no held-out judges of such a model.

    Raises:
        ConfigError: If an argument is invalid, or the model is none of images from noise.

    References:
        Yang et al. 2026, "Representation Frechet loss for visual generation", arXiv:2604.28190.
    """

    name = "frechet"
    replaces_step = True

    def __init__(
        self,
        extractors: str,
        reference: str,
        *,
        steps: Sequence[int] = (1,),
        micro_batch_size: int = 64,
        decay: float = 0.999,
        num_first: int = 50_000,
    ) -> None:
        super().__init__()
        for number in (*steps, micro_batch_size):
            check_count("frechet's steps and micro_batch_size", number)
        check_count("num_first", num_first, least=2)
        if not steps or len(set(steps)) != len(steps):
            raise ConfigError(f"frechet's steps must be different numbers, such as [1, 2, 4]; got {list(steps)}")
        if not 0 <= decay < 1:
            raise ConfigError(f"frechet's decay must lie in [0, 1); got {decay}")
        self._specs, self._reference = extractors, reference
        self._steps = tuple(steps)
        self._micro_batch_size, self._decay, self._num_first = micro_batch_size, decay, num_first
        self.feature_spaces: tuple[str, ...] = ()
        self._spaces: tuple[FeatureSpace, ...] = ()

    def build(self, module: FlowLoss) -> None:
        """Read the extractors and the reference, and create the moments."""
        check_pixels(module, self.name)
        if module.takes_hints:
            raise ConfigError("frechet generates from noise alone, and this network takes its own estimate as well")
        channels, height, width = module.codec.shape
        self._spaces = load_spaces(self._specs, str(self._reference), (channels, height, width))
        self.feature_spaces = tuple(space.extractor.name for space in self._spaces)
        calls = " or ".join(map(str, self._steps))
        self.summary = f"Frechet post-training: an image takes {calls} network call{'s' * (calls != '1')}"
        dims = [space.extractor.dim for space in self._spaces]
        self.populations = nn.ModuleDict({str(steps): Population(dims, self._decay) for steps in self._steps})

    def record(self) -> dict[str, Any]:
        """Return the checksums of the extractors, which must be the same when training resumes."""
        return {space.name: str(space.extractor.checksum) for space in self._spaces}

    def pass_size(self, batch_size: int | None) -> int | None:
        """Return how many images of a batch are generated with a graph at a time."""
        return self._micro_batch_size if batch_size is None else min(batch_size, self._micro_batch_size)

    def start(self, module: FlowLoss) -> None:
        """Move the extractors to the device, and fill the moments of a new training with generated images.

        Raises:
            ConfigError: If precision or strategy cannot be used.
        """
        trainer = module.trainer
        if str(trainer.precision) not in _PRECISIONS:
            raise ConfigError(
                f"frechet keeps moments in float64 and runs backward by itself, which precision {trainer.precision} "
                f"does not allow; set trainer.precision to one of {', '.join(_PRECISIONS)}"
            )
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise ConfigError("frechet needs whole weights on every device; set trainer.strategy to auto or ddp")
        if trainer.accumulate_grad_batches != 1:
            raise ConfigError(
                "frechet takes the gradient of one whole batch; leave trainer.accumulate_grad_batches at 1 and lower "
                "micro_batch_size"
            )
        self._move(module)
        for steps in self._steps:
            if not bool(self._population(steps).is_filled):
                self._fill(module, steps)

    def train_step(self, module: FlowLoss, batch: Any, seeds: tuple[int, int, int]) -> StepOutputs:
        """Compute the distance of the population after a batch, and its gradient; arguments as in the base class."""
        seed, epoch, number = seeds
        index = getattr(batch, "index", None)
        labels: Tensor = batch[1]
        indices = range(len(labels)) if index is None else index.tolist()
        noise = noise_from_seeds(
            module.codec.shape, [mix_seeds(_STREAM_NOISE, seed, epoch, i) for i in indices], device=labels.device
        )
        # The same on every process.
        steps = self._steps[mix_seeds(_STREAM_STEPS, seed, epoch, number) % len(self._steps)]
        self._move(module)
        with module.evaluation_mode():
            return self._step(module, steps, noise, labels)

    def _step(self, module: FlowLoss, steps: int, noise: Tensor, labels: Tensor) -> StepOutputs:
        parts = list(zip(noise.split(self._micro_batch_size), labels.split(self._micro_batch_size), strict=True))
        sums = self._new_sums(module)
        features: list[Tensor] = []
        for number, (part, classes) in enumerate(parts, 1):
            # The last micro-batch keeps its graph, and need not be generated again.
            with torch.set_grad_enabled(number == len(parts)):
                features = self._features(module, part, classes, steps)
            sums.add(features)
        sums.all_reduce()
        population = self._population(steps)
        moments = population.updated(sums.moments())
        values = [space.target.log_distance(found) for space, found in zip(self._spaces, moments, strict=True)]
        logs, gradients = zip(*values, strict=True)
        # Lightning averages gradients over processes, and this one is a sum over all images.
        world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        scale = population.share_of_new() * world / sums.count
        parameters: list[Tensor] = [p for p in module.net.parameters() if p.requires_grad]
        total = [torch.zeros_like(p) for p in parameters]
        for number, (part, classes) in enumerate(reversed(parts)):
            if number:
                features = self._features(module, part, classes, steps)
            surrogate = _surrogate(features, gradients) * scale
            with torch.autocast(noise.device.type, enabled=False):
                found = torch.autograd.grad(surrogate, parameters, allow_unused=True)
            for gradient, given in zip(total, found, strict=True):
                if given is not None:
                    gradient += given
        if module.is_in_training:
            # Not where a step is only timed.
            population.store(moments)
        named = {f"frechet_{s.name}_{steps}": log.exp() for s, log in zip(self._spaces, logs, strict=True)}
        loss = torch.stack(logs).sum().float()
        return StepOutputs(with_gradient(loss, parameters, total), parts=named)

    def _features(self, module: FlowLoss, noise: Tensor, labels: Tensor, steps: int) -> list[Tensor]:
        """Generate images and extract their features in every space, each ``(B, D)``."""
        # Autocast keeps half-precision weights, which those of a pass without a graph would lack.
        torch.clear_autocast_cache()
        pixels = generate_pixels(module, noise, labels, steps)
        return [space.features(pixels) for space in self._spaces]

    @torch.no_grad()
    def _fill(self, module: FlowLoss, steps: int) -> None:
        """Fill the moments with images of fixed seeds, shared by all processes."""
        trainer = module.trainer
        sums = self._new_sums(module)
        shares = list(_shares(self._num_first, self._micro_batch_size, trainer.global_rank, trainer.world_size))
        label = f"moments of {steps} step{'s' if steps > 1 else ''}"
        with module.evaluation_mode(), meter(label, self._num_first) as progress:
            for index in shares:
                seeds = [mix_seeds(_STREAM_FIRST, i) for i in index.tolist()]
                noise = noise_from_seeds(module.codec.shape, seeds, device=module.device)
                labels = (index % max(1, module.num_classes)).to(module.device)
                with trainer.precision_plugin.forward_context():
                    sums.add(self._features(module, noise, labels, steps))
                if trainer.is_global_zero:
                    progress.update(min(self._num_first, (int(index[-1]) + 1)))
        sums.all_reduce()
        self._population(steps).store(sums.moments())

    def _new_sums(self, module: FlowLoss) -> Sums:
        return Sums([space.extractor.dim for space in self._spaces], module.device)

    def _population(self, steps: int) -> Population:
        found = self.populations[str(steps)]
        assert isinstance(found, Population)
        return found

    def _move(self, module: FlowLoss) -> None:
        for space in self._spaces:
            space.to(module.device)


def _surrogate(features: Sequence[Tensor], gradients: Sequence[Moments]) -> Tensor:
    """Return ``sum_i coefficient_i . f_i``, whose gradient is that of the distances, times the number of images."""
    return torch.stack(
        [
            (coefficients(gradient, given).to(given.dtype) * given).sum()
            for given, gradient in zip(features, gradients, strict=True)
        ]
    ).sum()


def _shares(num: int, size: int, rank: int, world: int) -> Iterator[Tensor]:
    """Yield the indices that a process generates, in batches: every ``world``-th from its rank."""
    yield from torch.arange(rank, num, world).split(size)
