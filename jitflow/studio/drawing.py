"""Drawings of the studio: images, texts, frames of the sampling, and the command that reproduces them."""

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
from jitflow.model import BUILTIN, Model
from jitflow.studio.request import Request, check, words_of
from jitflow.training.module import FlowModule
from jitflow.training.sections import parse_interval

OnFrame = Callable[[int, int, Image.Image], None]
"""Called with (steps done, steps in all, the images as they are now)."""
# States that are kept of one drawing; each is a picture of all images.
_MAX_FRAMES = 24
# Small images are enlarged until all together are about as wide.
_WIDTH_PX = 768


@dataclass(frozen=True)
class Drawing:
    """Images and texts that were sampled for a request.

    Attributes:
        subjects: What is drawn, such as ``class 3``, each once; empty where samples have no names.
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
    """Sample the images that a request asks for.

    Args:
        model: A model, on the device where it shall run.
        request: What to draw.
        vavae_path: The VA-VAE that was attached to a model of latents, or ``builtin``; for the record only.
        on_frame: Told about the progress, at most 24 times; what it raises ends the drawing.

    Returns:
        The drawing.

    Raises:
        ConfigError: If the model cannot draw this; before any work.
        DataError: If a sample is not finite.
    """
    check(request, model)
    words = words_of(request, model)
    subjects = [caption for caption in dict.fromkeys(model.ask(**words).captions) if caption]
    recorder = _FrameRecorder(model.module, request.count if subjects else 1, on_frame)
    with model.module.watch_sampling(recorder.add_state):
        drawn = model.sample(
            **words,
            seeds=request.seed,
            guidance=request.guidance,
            interval=parse_interval(request.interval),
            solver=request.solver,
            steps=request.steps,
            churn=request.churn,
            ema=request.ema,
        )
    recorder.add(1.0, drawn.pixels)
    record = {"jitflow": jitflow.__version__, **drawn.settings, "asked": words, "seeds": drawn.seeds}
    if subjects:
        record["labels"] = drawn.labels
    if drawn.texts:
        record["texts"] = drawn.texts
    if model.module.takes_codec_file and vavae_path != BUILTIN:
        record["vavae_path"] = vavae_path
    record["command"], record["python"] = command_of(record), python_of(record)
    return Drawing(subjects, drawn.texts, recorder.frames, recorder.times, record)


def command_of(record: dict[str, Any]) -> str:
    """Return the shell command that samples the same images again.

    Args:
        record: Of a :class:`Drawing`.
    """
    words = ["jitflow", "sample", str(record["checkpoint"])]
    options = {"count" if word == "num" else word: value for word, value in record["asked"].items()}
    options |= {
        "guidance": f"{record['guidance']:g}",
        "interval": ",".join(f"{end:g}" for end in record["interval"]),
        "churn": f"{record['churn']:g}",
        "solver": record["solver"],
        "steps": record["steps"],
        "ema": record["ema"],
        "vavae_path": record.get("vavae_path", ""),
        "seed": record["seeds"][0],
    }
    for option, value in options.items():
        words += [f"--{option}", str(value)] if value != "" else []
    return shlex.join(words)


def python_of(record: dict[str, Any]) -> str:
    """Return Python code that samples the same images again: an expression whose value has ``images()``.

    Args:
        record: Of a :class:`Drawing`.
    """
    given = {**record["asked"], "seeds": record["seeds"], "interval": tuple(record["interval"])}
    given |= {name: record[name] for name in ("guidance", "churn", "solver", "steps", "ema")}
    codec = f", vavae_path={record['vavae_path']!r}" if "vavae_path" in record else ""
    asked = ", ".join(f"{name}={value!r}" for name, value in given.items())
    return f"import jitflow; jitflow.load({record['checkpoint']!r}{codec}).sample({asked})"


class _FrameRecorder:
    """Records pictures of some of the states of a sampling, evenly spread over its steps."""

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

    def add_state(self, done: int, total: int, t: float, x: Tensor) -> None:
        """Add the state after a step, if one is due; see :meth:`FlowModule.watch_sampling`."""
        every = -(-total // _MAX_FRAMES)
        if done % every == 0 and done < total:
            self.add(float(t), self.module.codec.decode(x).cpu())
            if self.on_frame is not None:
                self.on_frame(done, total, self.frames[-1])
