"""Options of a one-step post-training, in sections; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from jitflow.errors import ConfigError, check_count


@dataclass(frozen=True)
class MethodOptions:
    """Feature spaces that are optimised, and settings of the optimiser.

    Attributes:
        extractors: Feature spaces to optimise, as for `jitflow evaluate`, separated by commas.
        reference: Real images or their statistics under these extractors, as for `jitflow evaluate`.
        steps: Network calls of an image to train for, such as 1,2,4; sampling takes the first by default.
        updates: Optimiser steps.
        batch_size: Images of a step, over all devices.
        micro_batch_size: Images that are generated with a graph at a time; the result does not depend on it.
        learning_rate: Step size of AdamW, after a warm-up of a tenth of the training, along a cosine to 0.
        decay: Weight of earlier batches in the moments of the generated population.
        num_first: Images that the moments are filled with before the first step.

    Raises:
        ConfigError: If a number is out of range.
    """

    extractors: str = "siglip,mae,inception"
    reference: str | None = None
    steps: str = "1"
    updates: int = 62_500
    batch_size: int = 1024
    micro_batch_size: int = 64
    learning_rate: float = 1e-5
    decay: float = 0.999
    num_first: int = 50_000

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("updates", "batch_size", "micro_batch_size"):
            check_count(f"--{name}", getattr(self, name))
        check_count("--num_first", self.num_first, least=2)
        if not self.learning_rate > 0:
            raise ConfigError(f"--learning_rate must be positive; got {self.learning_rate}")

    def step_numbers(self) -> list[int]:
        """Return the numbers of network calls; raise ConfigError if they are none."""
        try:
            found = [int(part) for part in self.steps.strip("[]").split(",")]
        except ValueError:
            raise ConfigError(f"--steps takes numbers of network calls such as 1,2,4; got {self.steps!r}") from None
        for number in found:
            check_count("--steps", number)
        return found


@dataclass(frozen=True)
class JudgeOptions:
    """The held-out judge, which stops the training when its score gets worse.

    Attributes:
        judge: A feature space that is not optimised, as for `jitflow evaluate`; none for no judge.
        real: Real images or their statistics under the judge; those of --reference by default.
        num_judged: Images of an evaluation.
        judge_every: Optimiser steps between two evaluations.
        patience: Evaluations without a better score that end the training.

    Raises:
        ConfigError: If a number is out of range.
    """

    judge: str | None = None
    real: str | None = None
    num_judged: int = 5000
    judge_every: int = 1250
    patience: int = 5

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("num_judged", "judge_every", "patience"):
            check_count(f"--{name}", getattr(self, name))


@dataclass(frozen=True)
class RunOptions:
    """Where and how it runs.

    Attributes:
        run_dir: Folder of the run.
        ema: Average of the checkpoint's weights to start from: 1 or 2; 0 for the weights themselves.
        seed: Seed of all random generators.
        accelerator: As Lightning's Trainer takes it: auto, cpu, gpu.
        devices: As Lightning's Trainer takes it: auto, or a number.
        precision: 32-true, or bf16-mixed.
        restart: Delete an earlier training in the folder.
        dry_run: Check everything, print what would run, and stop.
    """

    run_dir: str = "runs/onestep"
    ema: int = 1
    seed: int = 0
    accelerator: str = "auto"
    devices: str = "auto"
    precision: str = "32-true"
    restart: bool = False
    dry_run: bool = False
