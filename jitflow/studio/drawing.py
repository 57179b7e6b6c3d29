"""From a request to pictures, texts, the way they came about, and the words that reproduce them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

import jitflow
from jitflow import pictures
from jitflow.apps.microdoppler.generate import BUILTIN
from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.apps.text.module import TextLightningModule
from jitflow.apps.text.write import write_texts
from jitflow.model import Model, parse_interval
from jitflow.studio.request import Request, check, labels_of
from jitflow.training.module import FlowModule

OnFrame = Callable[[int, int, Image.Image], None]
"""Called with (steps done, steps in all, the images as they are now)."""
# States that are kept of one drawing; each is a picture of all images.
_MAX_FRAMES = 24
# Small images are enlarged until all together are about as wide.
_WIDTH_PX = 768


@dataclass(frozen=True)
class Drawing:
    """What came of a request.

    Attributes:
        subjects: Classes or users that are drawn, such as ``class 3``, each once; empty for text.
        texts: Decoded text of each; empty unless the model writes text.
        frames: The images together at times from noise to the end, evenly spread over the steps.
        times: Time of each frame, in ``(0, 1]``, rising.
        record: Everything that reproduces the drawing, plain values.
    """

    subjects: list[str]
    texts: list[str]
    frames: list[Image.Image]
    times: list[float]
    record: dict[str, Any]

    @property
    def grid(self) -> Image.Image:
        """All images in one picture: the last frame."""
        return self.frames[-1]

    def frame_at(self, t: float) -> tuple[Image.Image, float]:
        """Return the frame nearest to a time in ``[0, 1]``, and its own time."""
        nearest = min(range(len(self.times)), key=lambda i: abs(self.times[i] - t))
        return self.frames[nearest], self.times[nearest]


def draw(model: Model, request: Request, *, vavae_path: str = BUILTIN, on_frame: OnFrame | None = None) -> Drawing:
    """Draw what is asked for.

    Args:
        model: A model, on the device where it shall run.
        request: What to draw.
        vavae_path: The VA-VAE that was attached to a model of users, or ``builtin``; for the record only.
        on_frame: Told about the progress, at most 24 times; what it raises ends the drawing.

    Returns:
        The drawing.

    Raises:
        ConfigError: If the model cannot draw this; before any work.
        DataError: If a sample is not finite.
    """
    module = model.module
    check(request, module)
    film = _Film(module, 1 if isinstance(module, TextLightningModule) else request.count, on_frame)
    subjects: list[str] = []
    texts: list[str] = []
    with module.watch_sampling(film.take):
        if isinstance(module, TextLightningModule):
            written = write_texts(
                module,
                request.count,
                prompt=request.subject or None,
                seeds=request.seed,
                steps=request.steps,
                solver=request.solver,
                churn=request.churn,
                ema=request.ema,
            )
            pixels, seeds, settings, texts = written.pixels, written.seeds, written.settings, written.texts
        else:
            labels = labels_of(request, module)
            drawn = model.sample(
                labels,
                request.seed,
                guidance=request.guidance,
                interval=parse_interval(request.interval),
                solver=request.solver,
                steps=request.steps,
                ema=request.ema,
            )
            pixels, seeds, settings = drawn.pixels, drawn.seeds, {**drawn.settings, "labels": labels}
            subjects = [_name(module, y) for y in dict.fromkeys(labels)]
    film.add(1.0, pixels)
    record = {"jitflow": jitflow.__version__, **settings, "checkpoint": model.source, "seeds": seeds}
    if texts:
        record["texts"] = texts
    if isinstance(module, UserConditionedDiT) and vavae_path != BUILTIN:
        record["vavae_path"] = vavae_path
    record["command"], record["python"] = command_of(record), python_of(record)
    return Drawing(subjects, texts, film.frames, film.times, record)


def command_of(record: dict[str, Any]) -> str:
    """Return the command that draws again what a record describes; empty if none can.

    Args:
        record: Of a :class:`Drawing`.
    """
    if "vavae_path" in record:
        return ""
    if "labels" in record:
        labels, count = record["labels"], 1
        once = list(dict.fromkeys(labels))
        if labels == [label for label in once for _ in range(len(labels) // len(once))]:
            labels, count = once, len(labels) // len(once)
        words = ["sample", str(record["checkpoint"]), "--labels", ",".join(map(str, labels)), "--count", str(count)]
        words += ["--guidance", f"{record['guidance']:g}"]
        words += ["--interval", ",".join(f"{end:g}" for end in record["interval"])]
    else:
        words = ["text", "sample", str(record["checkpoint"]), "--count", str(len(record["seeds"]))]
        words += ["--prompt", record["prompt"]] if record["prompt"] else []
        words += ["--churn", f"{record['churn']:g}"]
    words += ["--solver", record["solver"], "--steps", str(record["steps"]), "--ema", str(record["ema"])]
    return shlex.join(["jitflow", *words, "--seed", str(record["seeds"][0])])


def python_of(record: dict[str, Any]) -> str:
    """Return the Python that draws again what a record describes: an expression whose value has ``images()``.

    Args:
        record: Of a :class:`Drawing`.
    """
    common = f"seeds={record['seeds']}, solver={record['solver']!r}, steps={record['steps']}, ema={record['ema']}"
    if "labels" in record:
        guided = f"guidance={record['guidance']}, interval={tuple(record['interval'])}"
        load = f"import jitflow; jitflow.load({record['checkpoint']!r})"
        if "vavae_path" in record:
            load = (
                "from jitflow.apps.microdoppler.generate import load_user_model; "
                f"load_user_model({record['checkpoint']!r}, vavae_path={record['vavae_path']!r})"
            )
        return f"{load}.sample({record['labels']}, {guided}, {common})"
    prompt = f"prompt={record['prompt']!r}, churn={record['churn']}"
    return (
        "from jitflow.apps.text.write import load_text_model, write_texts; "
        f"write_texts(load_text_model({record['checkpoint']!r}), {len(record['seeds'])}, {prompt}, {common})"
    )


def _name(module: FlowModule, label: int) -> str:
    if label == module.num_classes:
        return "any class"
    return f"user {module.user_ids[label]}" if isinstance(module, UserConditionedDiT) else f"class {label}"


class _Film:
    """Pictures of some of the states of a sampling, evenly spread over its steps."""

    def __init__(self, module: FlowModule, num_alike: int, on_frame: OnFrame | None) -> None:
        self.module = module
        self.num_alike = num_alike
        self.on_frame = on_frame
        self.frames: list[Image.Image] = []
        self.times: list[float] = []

    def add(self, t: float, pixels: Tensor) -> None:
        """Add a frame of images, shape ``(N, C, H, W)``, uint8."""
        # A little wider than high, and images of one class in one row.
        wanted = math.sqrt(1.3 * len(pixels)) / self.num_alike
        columns = min(8, self.num_alike * max(1, round(wanted)))
        scale = pictures.display_scale(pixels.shape[-1], target_px=_WIDTH_PX // columns)
        self.frames.append(pictures.grid(pixels.numpy(), columns=columns, scale=scale))
        self.times.append(t)

    def take(self, done: int, in_all: int, t: float, x: Tensor) -> None:
        """Add the state after a step, if one is due; see :meth:`FlowModule.watch_sampling`."""
        every = -(-in_all // _MAX_FRAMES)
        if done % every == 0 and done < in_all:
            self.add(float(t), self.module.codec.decode(x).cpu())
            if self.on_frame is not None:
                self.on_frame(done, in_all, self.frames[-1])
