"""Sampling: one line in Python, one command in a shell, the same pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from jitflow import pictures
from jitflow.checkpoint.load import load_module
from jitflow.core.guidance import check_interval
from jitflow.core.seeding import use_seeds
from jitflow.core.solver import get_solver
from jitflow.errors import ConfigError, DataError
from jitflow.io.files import write_json
from jitflow.training.module import FlowModule
from jitflow.training.posthoc_ema import reconstruct_ema
from jitflow.training.sampling_settings import settings_from_words

log = logging.getLogger(__name__)
OnProgress = Callable[[int, int], None]
_PRECISIONS = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}


@dataclass
class Samples:
    """Generated images with everything that names them.

    Attributes:
        pixels: Shape ``(N, C, H, W)``, uint8.
        labels: Class of each image.
        seeds: Seed of each image.
        settings: Settings of the sampling, plain values.
    """

    pixels: Tensor
    labels: list[int]
    seeds: list[int]
    settings: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self) -> list[Image.Image]:
        """Return the images as PIL images."""
        return [pictures.to_image(p) for p in self.pixels.numpy()]

    def grid(self, *, columns: int | None = None) -> Image.Image:
        """Lay the images out in one picture, a row for each label where labels repeat."""
        if columns is None:
            same = next((i for i, y in enumerate(self.labels) if y != self.labels[0]), len(self.labels))
            columns = same if 1 < same <= 16 else min(8, len(self))
        scale = pictures.display_scale(self.pixels.shape[-1])
        return pictures.grid(self.pixels.numpy(), columns=columns, scale=scale)

    def save(self, folder: str | Path) -> Path:
        """Write one PNG for each image, ``grid.png`` and ``settings.json``; return the folder."""
        folder = Path(folder)
        names = [f"{i:06d}_class{y}_seed{s}.png" for i, (y, s) in enumerate(zip(self.labels, self.seeds, strict=True))]
        for name, image in zip(names, self.images(), strict=True):
            pictures.save_image(image, folder / name)
        pictures.save_image(self.grid(), folder / "grid.png")
        listed = [{"file": n, "label": y, "seed": s} for n, y, s in zip(names, self.labels, self.seeds, strict=True)]
        write_json(folder / "settings.json", {**self.settings, "images": listed})
        return folder


class Model:
    """A trained model, ready to sample.

    Args:
        module: The module with its weights.
        source: Where it came from, for the settings file.
    """

    def __init__(self, module: FlowModule, *, source: str | Path | None = None) -> None:
        self.module = module
        self.source = str(source) if source is not None else None
        self.snapshots = _find_snapshots(Path(source)) if source is not None else None

    def to(self, device: str | torch.device) -> Model:
        """Move to a device and return the model; raise ConfigError if this machine has no such device."""
        try:
            self.module.to(device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"device {device} cannot be used here ({str(error).splitlines()[0]})") from None
        return self

    def compile(self) -> Model:
        """Compile the whole network for sampling with ``torch.compile``, and return the model.

        The first images wait for the compiler; then a step has fewer and longer kernels. On CUDA every call of the
        network is one graph of kernels, launched at once. Batches of another size compile again, and images agree
        with the plain network's up to rounding.
        """
        on_cuda = self.module.device.type == "cuda"
        self.module.net.compile(dynamic=False, mode="reduce-overhead" if on_cuda else None)
        return self

    def sample(
        self,
        labels: Sequence[int] | Tensor,
        seeds: Sequence[int] | int = 0,
        *,
        guidance: float | None = None,
        interval: tuple[float, float] | None = None,
        solver: str | None = None,
        steps: int | None = None,
        time_shift: float | None = None,
        ema: float = 1,
        batch_size: int = 64,
        precision: str = "32",
        on_progress: OnProgress | None = None,
    ) -> Samples:
        """Draw one image for each label. A setting that is ``None`` is the model's own.

        Args:
            labels: Classes, one for each image.
            seeds: A seed for each image, or the first of consecutive ones. A seed names an image whatever
                the batch size.
            guidance: Guidance scale; 1 for none.
            interval: Times (low, high) between which guidance acts.
            solver: ``euler``, ``heun``, ``midpoint`` or ``multistep``.
            steps: Steps of the solver.
            time_shift: Above 1 puts more of the steps near the noise, below 1 near the image; 1 spaces them evenly.
            ema: Which average of the weights to use, 1 or 2; 0 for the weights themselves; between 0 and 1 a
                relative width, such as 0.1, for an average reconstructed from the run's snapshots.
            batch_size: Images at a time.
            precision: ``"32"``, ``"bf16"`` or ``"16"`` inside the network; the state stays in float32.
            on_progress: Called with (steps of images done, steps of images in all).

        Returns:
            The images.

        Raises:
            ConfigError: If a setting is out of range.
        """
        labels = [int(y) for y in labels]
        seeds = list(range(seeds, seeds + len(labels))) if isinstance(seeds, int) else [int(s) for s in seeds]
        if not labels:
            raise ConfigError("there is nothing to sample: labels is empty")
        if len(seeds) != len(labels):
            raise ConfigError(f"{len(seeds)} seeds were given for {len(labels)} labels; give one for each, or a number")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1; got {batch_size}")
        if precision not in _PRECISIONS:
            raise ConfigError(f"precision must be one of {', '.join(_PRECISIONS)}; got {precision!r}")
        module, pieces = self.module, []
        if ema == 1 and not module.ema_params1:
            log.warning("this model has no EMA; sampling from its weights")
            ema = 0
        self.check_ema(ema)
        given = settings_from_words(
            guidance=guidance, interval=interval, solver=solver, steps=steps, time_shift=time_shift
        )
        with module.sampling(**given), _weights(module, ema, self.snapshots):
            settings = {
                "checkpoint": self.source,
                "guidance": module.cfg_scale,
                "interval": list(module.cfg_interval),
                "solver": module.sampling_method,
                "steps": module.num_sampling_steps,
                "time_shift": module.time_shift,
                "network_evaluations": get_solver(module.sampling_method).num_evaluations(module.num_sampling_steps),
                "ema": ema,
                "precision": precision,
                "device": module.device.type,
                "torch": torch.__version__,
            }
            module._check_labels(torch.tensor(labels))
            for start in range(0, len(labels), batch_size):
                part = slice(start, start + batch_size)
                pieces.append(self._sample_batch(labels, seeds, part, precision, on_progress))
        return Samples(torch.cat(pieces), labels, seeds, settings)

    def check_ema(self, ema: float) -> None:
        """Raise ConfigError unless the model has this average; a score must not silently be another's."""
        if ema in (1, 2):
            self.module.ema_parameters(int(ema))
        elif not 0 <= ema < 1:
            raise ConfigError(f"ema must be 0, 1, 2, or a width between 0 and 1; got {ema:g}")
        elif ema and self.snapshots is None:
            raise ConfigError(
                f"ema={ema:g} asks for an average made after training, but there is no ema_snapshots folder"
            )

    def _sample_batch(
        self, labels: list[int], seeds: list[int], part: slice, precision: str, on_progress: OnProgress | None
    ) -> Tensor:
        module, size = self.module, len(labels[part])

        def on_step(done: int, in_all: int, t: float, x: Tensor) -> None:
            if on_progress is not None:
                on_progress(part.start * in_all + size * done, len(labels) * in_all)

        dtype = _PRECISIONS[precision]
        autocast = nullcontext() if precision == "32" else torch.autocast(module.device.type, dtype=dtype)
        with use_seeds(seeds[part]), module.watch_sampling(on_step), autocast:
            x = module.generate(torch.tensor(labels[part], device=module.device), use_ema=False)
        wrong = int((~x.flatten(1).isfinite().all(dim=1)).sum())
        if wrong:
            # As uint8 they would look like ordinary pixels.
            raise DataError(f"{wrong} of {size} samples hold NaN or infinity; the model has diverged")
        return module.codec.decode(x).cpu()


def load(
    path: str | Path,
    *,
    device: str | torch.device | None = None,
    module_class: type[FlowModule] | None = None,
) -> Model:
    """Load a trained model.

    Args:
        path: A checkpoint file.
        device: Where to put it; a GPU if there is one by default.
        module_class: Class of the module, where you trained a subclass of your own. By default that of the
            application which the file names; no other class is taken from a file, which could name any code.

    Returns:
        The model; ``load(path).sample(labels=[3, 7], seeds=[0, 1], guidance=2.0, steps=50).images()``.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it cannot be loaded whole.
    """
    module = load_module(path, module_class=module_class)
    return Model(module, source=path).to(device or default_device())


def _find_snapshots(checkpoint: Path) -> Path | None:
    """Folder of a run's EMA snapshots: beside its checkpoint, or beside the folder of checkpoints."""
    for folder in (checkpoint.parent, checkpoint.parent.parent):
        if (folder / "ema_snapshots").is_dir():
            return folder / "ema_snapshots"
    return None


def default_device() -> str:
    """Name the fastest device of this machine: ``cuda``, ``mps`` or ``cpu``."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def parse_labels(text: str, num_classes: int) -> list[int]:
    """Read labels such as ``"0,3,7-9"`` or ``"all"``; raise ConfigError if they make no sense or are out of range."""
    if text == "all":
        return list(range(num_classes))
    labels: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            labels += range(int(first), int(last) + 1) if dash else [int(first)]
        except ValueError:
            raise ConfigError(f"labels must look like 0,3,7-9 or all; got {text!r}") from None
    wrong = [y for y in labels if not 0 <= y <= num_classes]
    if wrong or not labels:
        raise ConfigError(f"labels {text!r}: this model has classes 0 to {num_classes - 1} ({num_classes}: any class)")
    return labels


def parse_interval(text: str) -> tuple[float, float]:
    """Read an interval such as ``"0.1,1.0"``; raise ConfigError if it is reversed or no interval."""
    try:
        low, high = (float(end) for end in text.split(","))
    except ValueError:
        raise ConfigError(f"the guidance interval must look like 0.1,1.0; got {text!r}") from None
    return check_interval((low, high))


@contextmanager
def _weights(module: FlowModule, ema: float, snapshots: Path | None) -> Iterator[None]:
    """Use an average of the weights inside the block; see :meth:`Model.sample` for what ``ema`` means."""
    if ema == 0:
        with module.present_weights():
            yield
    elif 0 < ema < 1 and snapshots is not None:
        with module.other_weights(reconstruct_ema(snapshots, ema)):
            yield
    else:
        with module.ema_weights(int(ema)):
            yield
