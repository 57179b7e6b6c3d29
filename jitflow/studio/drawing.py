"""Generate the samples of a studio request, with frames of the sampling and a command that reproduces them."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor, nn

import jitflow
from jitflow import pictures
from jitflow.model import BUILTIN, Model
from jitflow.studio.request import Request, check, sample_arguments
from jitflow.training.module import FlowModule
from jitflow.training.samples import drawable_captions
from jitflow.training.sections import parse_interval

OnFrame = Callable[[int, int, Image.Image], None]
"""Called with (steps done, total steps, current images)."""
# Frames kept of one drawing; each shows all images.
_MAX_FRAMES = 24
# Small images are enlarged to about this total width.
_WIDTH_PX = 768


@dataclass(frozen=True)
class Drawing:
    """Samples of a request, with frames of the sampling and a record to reproduce them.

    Attributes:
        subjects: Captions of the samples, such as ``cat`` or ``class 3``, each once; empty if samples have none.
        texts: Decoded text of each sample; empty unless it is a text model.
        frames: Grids of all images from noise to data, evenly spaced over the steps.
        times: Time of each frame, in ``(0, 1]``, increasing.
        record: Everything that reproduces the drawing, plain values.
        seconds: Time that the sampling took, frames included.
    """

    subjects: list[str]
    texts: list[str]
    frames: list[Image.Image]
    times: list[float]
    record: dict[str, Any]
    seconds: float = 0.0

    @property
    def grid(self) -> Image.Image:
        """Return the grid of the final images: the last frame."""
        return self.frames[-1]

    def frame_at(self, t: float) -> tuple[Image.Image, float]:
        """Return the frame nearest to a time in ``[0, 1]``, and its own time."""
        nearest = min(range(len(self.times)), key=lambda i: abs(self.times[i] - t))
        return self.frames[nearest], self.times[nearest]


def draw(
    model: Model,
    request: Request,
    *,
    vavae_path: str = BUILTIN,
    on_frame: OnFrame | None = None,
    before_call: Callable[[], None] | None = None,
) -> Drawing:
    """Generate the samples of a request.

    Args:
        model: The model, on its device.
        request: The request.
        vavae_path: The VA-VAE that was attached to a model of latents, or ``builtin``; for the record only.
        on_frame: Called with the progress, at most 24 times; an exception in it stops the sampling.
        before_call: Called before each call of the network; an exception in it stops the sampling.

    Returns:
        The drawing.

    Raises:
        ConfigError: If the model cannot generate these samples; raised before any work.
        DataError: If a sample is not finite.
    """
    check(request, model)
    arguments = sample_arguments(request, model)
    wanted = model.ask(**arguments)
    subjects = [caption for caption in dict.fromkeys(wanted.captions) if caption]
    captions = drawable_captions(wanted.captions, wanted.labels)
    recorder = FrameRecorder(model.module, request.count if subjects else 1, on_frame, captions)
    started = time.monotonic()
    with model.module.watch_sampling(recorder.record_step), _before_calls(model.module.net, before_call):
        drawn = model.sample(
            **arguments,
            seeds=request.seed,
            guidance=request.guidance,
            interval=parse_interval(request.interval),
            solver=request.solver,
            steps=request.steps,
            churn=request.churn,
            ema=request.ema,
        )
    seconds = time.monotonic() - started
    recorder.add_frame(1.0, drawn.pixels)
    record = {"jitflow": jitflow.__version__, **drawn.settings, "asked": arguments, "seeds": drawn.seeds}
    if subjects:
        record["labels"] = drawn.labels
    if drawn.texts:
        record["texts"] = drawn.texts
    if model.module.takes_codec_file and vavae_path != BUILTIN:
        record["vavae_path"] = vavae_path
    record["command"], record["python"] = sample_command(record), sample_expression(record)
    return Drawing(subjects, drawn.texts, recorder.frames, recorder.times, record, seconds)


@contextmanager
def _before_calls(net: nn.Module, function: Callable[[], None] | None) -> Iterator[None]:
    """Call a function before each call of a network inside the block."""
    if function is None:
        yield
        return
    hook = net.register_forward_pre_hook(lambda net, arguments: function())
    try:
        yield
    finally:
        hook.remove()


def sample_command(record: dict[str, Any]) -> str:
    """Return the ``jitflow sample`` command that reproduces a drawing's samples.

    Args:
        record: Record of a :class:`Drawing`.
    """
    arguments = ["jitflow", "sample", str(record["checkpoint"])]
    options = {"count" if word == "num" else word: value for word, value in record["asked"].items()}
    options |= {
        "guidance": f"{record['guidance']:g}",
        "interval": ",".join(f"{end:g}" for end in record["interval"]),
        "churn": f"{record['churn']:g}",
        "solver": record["solver"],
        "steps": record["steps"],
        "ema": record["ema"],
        "precision": record["precision"],
        "vavae_path": record.get("vavae_path", ""),
        "seed": record["seeds"][0],
    }
    for option, value in options.items():
        arguments += [f"--{option}", str(value)] if value != "" else []
    return shlex.join(arguments)


def sample_expression(record: dict[str, Any]) -> str:
    """Return a Python expression that reproduces a drawing's samples; its value has ``images()``.

    Args:
        record: Record of a :class:`Drawing`.
    """
    given = {**record["asked"], "seeds": record["seeds"], "interval": tuple(record["interval"])}
    given |= {name: record[name] for name in ("guidance", "churn", "solver", "steps", "ema", "precision")}
    codec = f", vavae_path={record['vavae_path']!r}" if "vavae_path" in record else ""
    asked = ", ".join(f"{name}={value!r}" for name, value in given.items())
    return f"import jitflow; jitflow.load({record['checkpoint']!r}{codec}).sample({asked})"


class FrameRecorder:
    """Recorder of image frames during sampling, evenly spaced over the steps."""

    def __init__(
        self, module: FlowModule, num_alike: int, on_frame: OnFrame | None, captions: Sequence[str] = ()
    ) -> None:
        self.module = module
        self.num_alike = num_alike
        self.on_frame = on_frame
        self.captions = captions
        self.frames: list[Image.Image] = []
        self.times: list[float] = []

    def add_frame(self, t: float, pixels: Tensor) -> None:
        """Add a frame of images, shape ``(N, C, H, W)``, uint8."""
        # A grid slightly wider than high, with images of one class in one row.
        wanted = math.sqrt(1.3 * len(pixels)) / self.num_alike
        columns = min(8, self.num_alike * max(1, round(wanted)))
        scale = pictures.display_scale(pixels.shape[-1], target_px=_WIDTH_PX // columns)
        frame = pictures.grid(pixels.numpy(), columns=columns, scale=scale, captions=self.captions)
        if t < 1:
            # All frames of all sessions are in memory; the last alone is kept as it is.
            frame.thumbnail((_WIDTH_PX, _WIDTH_PX))
        self.frames.append(frame)
        self.times.append(t)

    def record_step(self, done: int, total: int, t: float, x: Tensor) -> None:
        """Record the state after a step if a frame is due; see :meth:`FlowModule.watch_sampling`."""
        every = -(-total // _MAX_FRAMES)
        if done % every == 0 and done < total:
            self.add_frame(float(t), self.module.codec.decode(x).cpu())
            if self.on_frame is not None:
                self.on_frame(done, total, self.frames[-1])
