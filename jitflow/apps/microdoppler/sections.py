"""Option sections of the micro-Doppler commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class RadarOptions:
    """Simulated radar, walking people and spectrogram.

    Attributes:
        carrier_ghz: Carrier of the radar in GHz: 24 or 77.
        window_sec: Duration of a spectrogram in seconds.
        img_size: Side of the spectrograms in pixels.
        snr_db: Smallest and largest ratio of echo to noise, dB.
        direction: Walking direction: toward the radar, away from it, or both.
        colours: Colour map of the spectrograms: viridis, jet, turbo or grey.
    """

    carrier_ghz: Literal[24, 77] = 24
    window_sec: float = 2.5
    img_size: int = 256
    snr_db: tuple[float, float] = (18.0, 28.0)
    direction: Literal["toward", "away", "both"] = "toward"
    colours: Literal["viridis", "jet", "turbo", "grey"] = "viridis"


@dataclass(frozen=True)
class DatasetOptions:
    """Layout of the simulated data set.

    Attributes:
        val_fraction: Share of each user's spectrograms under val/.
        min_cadence_gap: Smallest difference between the users' step frequencies; 0.1 is 10 %, for at most 9 users.
        layout: class_folders (ID_1/...) or flat (user_01_sample_001.png).
        num_processes: Worker processes; all cores by default.
        files: png for coloured pictures, npz for arrays in dB with their axes.
    """

    val_fraction: float = 0.2
    min_cadence_gap: float = 0.0
    layout: Literal["class_folders", "flat"] = "class_folders"
    num_processes: int | None = None
    files: Literal["png", "npz"] = "png"


@dataclass(frozen=True)
class CampaignOptions:
    """Sessions and activities of simulated people; without sessions each is a walk of its own.

    Attributes:
        sessions: Sessions of each person, with clothes, haste, lane, clutter, noise and gain of their own; 0 for none.
        activities: What people do, in turn: walk, run, crouch, wave, fall.
        strength: Factor of the differences between sessions; 0 for none.
        noise_floor_db: Lowest and highest noise floor of a session, dB re 1 m^2; in place of --radar.snr_db.
        clutter_db: Lowest and highest clutter of a session, dB re 1 m^2.
    """

    sessions: int = 0
    activities: tuple[Literal["walk", "run", "crouch", "wave", "fall"], ...] = ("walk",)
    strength: float = 1.0
    noise_floor_db: tuple[float, float] = (-32.0, -20.0)
    clutter_db: tuple[float, float] = (-30.0, -5.0)


@dataclass(frozen=True)
class RecordingOptions:
    """Raw recordings in place of spectrograms; their carrier is the radar's.

    Attributes:
        radar: Write recordings of this radar, a preset (ancortek, doppler_24ghz, iwr1443, iwr1642) or a YAML file.
        per_user: Recordings of each person.
        length_sec: Length of a recording in seconds.
    """

    radar: str | None = None
    per_user: int = 6
    length_sec: float = 6.0


@dataclass(frozen=True)
class WindowOptions:
    """Windows that recordings are cut into, and their folder.

    Attributes:
        output_dir: Folder of the spectrograms, their manifest.csv, and previews of the recordings.
        duration_sec: Length of a window in seconds; 0 keeps recordings whole.
        overlap: Share of a window that the next one has too, in [0, 1).
        num_processes: Worker processes; all cores by default.
    """

    output_dir: str = "outputs/spectrograms"
    duration_sec: float = 2.5
    overlap: float = 0.0
    num_processes: int | None = None


@dataclass(frozen=True)
class ExtractionOptions:
    """Extraction of latents from pictures.

    Attributes:
        img_size: Side in pixels that pictures are resized to (never cropped or flipped).
        val_fraction: Share of each user's pictures held out when there is no val/.
        num_processes: Worker processes.
        sample: Sample the latents' distribution, as the release does, instead of taking its mean.
    """

    img_size: int = 256
    val_fraction: float | None = None
    num_processes: int = 1
    sample: bool = True


@dataclass(frozen=True)
class ReleaseOptions:
    """Files for the code of the LightningDiT release.

    Attributes:
        shards: New folder for the training latents as shards that the release reads.
    """

    shards: str | None = None


@dataclass(frozen=True)
class TrainingOptions:
    """Training of the network; what is not given is chosen for the network, the data and the length.

    Attributes:
        model: Name of the network (jitflow models 'LightningDiT*').
        precision: 16-mixed, bf16-mixed, fp8-mixed or 32-true; on a CPU half precision becomes 32-true.
        max_steps: Optimiser steps after which training stops; -1 for no limit.
        prediction: What the network predicts: velocity, data or noise; velocity by default.
        noise_scale: Standard deviation of the noise, by default 1, or 1.5 patch sides if data are predicted.
        ema_decay: Decay of the average of the weights, by default 1 - 10 / steps.
    """

    model: str = "LightningDiT-XL/1"
    precision: str = "16-mixed"
    max_steps: int = -1
    prediction: Literal["velocity", "data", "noise"] | None = None
    noise_scale: float | None = None
    ema_decay: float | None = None

    def options(self) -> dict[str, Any]:
        """Return the settings by option of stage 2; those that are None are chosen there."""
        return {
            "model": self.model,
            "precision": self.precision,
            "max_steps": self.max_steps,
            "model.prediction": self.prediction,
            "model.noise_scale": self.noise_scale,
            "model.ema_decay1": self.ema_decay,
        }


@dataclass(frozen=True)
class GenerationOptions:
    """Sampling of spectrograms.

    Attributes:
        guidance_scale: Guidance scale; 1 for none.
        num_steps: Steps of the solver.
    """

    guidance_scale: float = 4.0
    num_steps: int = 250


@dataclass(frozen=True)
class NewUserOptions:
    """A new user of a trained model, learned from a few spectrograms.

    Attributes:
        model: Checkpoint, or a run's folder.
        data_dir: Folder with spectrograms of the new user alone, 5 to 20 of them, or with their manifest.
        out: Folder of the larger model and of the report; a numbered one beside it if it has a report already.
        user_id: Number of the new user; by default one more than the highest.
        num_steps: Steps of the optimiser.
        learning_rate: Step size.
        num_samples: Spectrograms of the user to draw and to compare with the given ones.
        sampling_steps: Steps of the solver that draws them; the model's own by default.
        seed: Seed of all random numbers.
        vavae_path: For latents of a VA-VAE: its file.
        device: cpu, cuda, ...; the fastest there is by default.
    """

    model: str
    data_dir: str
    out: str = "outputs/new_user"
    user_id: int | None = None
    num_steps: int = 400
    learning_rate: float = 0.01
    num_samples: int = 16
    sampling_steps: int | None = None
    seed: int = 0
    vavae_path: str = "builtin"
    device: str | None = None


@dataclass(frozen=True)
class SolverOptions:
    """Sampling settings with the model's own defaults.

    Attributes:
        solver: euler, heun, midpoint, multistep or consistency; the model's own by default.
        interval: Times low,high between which guidance acts; the model's own by default.
        ema: Average of the weights: 1 or 2; 0 for the weights themselves.
        conditions: For a model with named conditions: those to draw with, such as activity=run,speed=1.4.
        guide_by: For such a model: the conditions that guidance acts by, such as activity; all by default.
    """

    solver: str | None = None
    interval: str | None = None
    ema: float = 1
    conditions: str | None = None
    guide_by: str | None = None


@dataclass(frozen=True)
class StageOptions:
    """Stages of the pipeline to skip, and the device of the others.

    Attributes:
        skip_extraction: Skip stage 1, extraction.
        skip_training: Skip stage 2, training.
        skip_generation: Skip stage 3, generation.
        device: Device of stages 1 and 3, or cpu for all stages; the fastest available by default.
    """

    skip_extraction: bool = False
    skip_training: bool = False
    skip_generation: bool = False
    device: str | None = None

    def names(self) -> list[str]:
        """Return the names of the stages to skip."""
        return [name for name in ("extraction", "training", "generation") if getattr(self, f"skip_{name}")]


@dataclass(frozen=True)
class RealDataOptions:
    """Real pictures of an evaluation.

    Attributes:
        val_fraction: Share held out when there is no val/, as for stage 1.
        split_seed: Seed of that split, as for stage 1.
        settings: JSON with the spectrogram settings of data that was not simulated here.
    """

    val_fraction: float | None = None
    split_seed: int = 42
    settings: str | None = None
