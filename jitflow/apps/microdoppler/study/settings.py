"""Option sections of the augmentation study."""

from __future__ import annotations

from dataclasses import dataclass

from jitflow.errors import ConfigError, check_count


@dataclass(frozen=True)
class StudyOptions:
    """Data of the study and its extent.

    Attributes:
        data_dir: Real spectrograms, as for stage 1; simulated ones by default.
        val_fraction: Share of each user's sessions to test on, where the data have no val/.
        others_dir: Spectrograms of other people, all of whom the generator is pretrained on.
        full: Also 10 and 20 real samples, 0.5 and 2 times as many generated ones, and ResNet-18.
        num_seeds: Seeds, each with its own real samples, generator and classifiers; at least 2.
        seed: Seed of everything.
        num_processes: Worker processes; all cores by default.
    """

    data_dir: str | None = None
    val_fraction: float | None = None
    others_dir: str | None = None
    full: bool = False
    num_seeds: int = 5
    seed: int = 0
    num_processes: int | None = None

    def __post_init__(self) -> None:
        if self.num_seeds < 2:
            raise ConfigError(f"num_seeds must be at least 2, since one has no interval; got {self.num_seeds}")
        check_count("seed", self.seed, least=0)
        if self.num_processes is not None:
            check_count("num_processes", self.num_processes)
        if self.data_dir is None and (self.others_dir, self.val_fraction) != (None, None):
            raise ConfigError("others_dir and val_fraction belong to real data; give data_dir as well")


@dataclass(frozen=True)
class PeopleOptions:
    """Simulated people, where no data are given.

    Attributes:
        users: People to tell apart.
        sessions: Sessions of each, a third of them to test on.
        per_session: Spectrograms of each session.
        others: Other people, with as many sessions, whom only the generator sees; 0 for none.
    """

    users: int = 8
    sessions: int = 6
    per_session: int = 8
    others: int = 24

    def __post_init__(self) -> None:
        check_count("users", self.users, least=2)
        check_count("sessions", self.sessions, least=2)
        check_count("per_session", self.per_session)
        check_count("others", self.others, least=0)


@dataclass(frozen=True)
class NetworkOptions:
    """Generator of each training subset.

    Attributes:
        width: Width of the LightningDiT, a multiple of 64.
        depth: Its blocks.
        pretraining_steps: Steps on other people, if there are some.
        generator_steps: Steps on the subset.
        guidance: Guidance scale of the samples.
        sampling_steps: Steps of the solver.
    """

    width: int = 192
    depth: int = 6
    pretraining_steps: int = 2000
    generator_steps: int = 1200
    guidance: float = 2.0
    sampling_steps: int = 20

    def __post_init__(self) -> None:
        for name in ("width", "depth", "pretraining_steps", "generator_steps", "sampling_steps"):
            check_count(name, getattr(self, name))
        if self.width % 64:
            raise ConfigError(f"width must be a multiple of 64; got {self.width}")


@dataclass(frozen=True)
class TrainingsOptions:
    """Classifiers, all of which have equally many steps whatever they are trained on.

    Attributes:
        cnn_steps: Steps of the small convolutional network and of ResNet-18, with 32 spectrograms each.
        step_tolerance: Sifting drops a generated sample whose step frequency differs by more from its user's.
    """

    cnn_steps: int = 300
    step_tolerance: float = 0.1

    def __post_init__(self) -> None:
        check_count("cnn_steps", self.cnn_steps)
        if not 0 < self.step_tolerance < 1:
            raise ConfigError(f"step_tolerance must lie in (0, 1); got {self.step_tolerance}")
