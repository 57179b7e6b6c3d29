"""From a request to pictures, texts, the way they came about, and the words that reproduce them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import jitflow
from jitflow import pictures
from jitflow.pipelines.sample import Model, parse_interval
from jitflow.pipelines.text_sample import write_texts
from jitflow.studio.request import Request, check, labels_of
from jitflow.training.module import FlowModule
from jitflow.training.text_module import TextLightningModule
from jitflow.training.user_dit import UserConditionedDiT

OnStep = Callable[[int, int, Image.Image], None]
"""Called with (steps done, steps in all, the images as they are now)."""
# States that are kept of one drawing; each is a picture of all images.
_MAX_FRAMES = 24
_TARGET_PX = 128


@dataclass(frozen=True)
class Drawing:
    """What came of a request.

    Attributes:
        images: One picture for each sample.
        captions: What each shows, such as ``class 3, seed 0``.
        texts: Decoded text of each; empty unless the model writes text.
        frames: The images together at times from noise to the end, evenly spread over the steps.
        times: Time of each frame, 0 to 1.
        record: Everything that reproduces the drawing, plain values.
    """

    images: list[Image.Image]
    captions: list[str]
    texts: list[str]
    frames: list[Image.Image]
    times: list[float]
    record: dict[str, Any]

    @property
    def grid(self) -> Image.Image:
        """All images in one picture: the last frame."""
        return self.frames[-1]


def draw(model: Model, request: Request, *, on_step: OnStep | None = None) -> Drawing:
    """Draw what is asked for.

    Args:
        model: A model, on the device where it shall run.
        request: What to draw.
        on_step: Told about the progress, for as many steps as there are frames.

    Returns:
        The drawing.

    Raises:
        ConfigError: If the model cannot draw this; before any work.
        DataError: If a sample is not finite.
    """
    module = model.module
    check(request, module)
    film = _Film(module, on_step)
    with film.watch():
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
            captions = [f"seed {seed}" for seed in seeds]
            asked: dict[str, Any] = {"prompt": request.subject or None}
        else:
            labels, texts = labels_of(request, module), []
            drawn = model.sample(
                labels,
                request.seed,
                guidance=request.guidance,
                interval=parse_interval(request.interval),
                solver=request.solver,
                steps=request.steps,
                ema=request.ema,
            )
            pixels, seeds, settings = drawn.pixels, drawn.seeds, drawn.settings
            captions = [f"{_name(module, y)}, seed {s}" for y, s in zip(labels, seeds, strict=True)]
            asked = {"labels": labels}
    scale = pictures.display_scale(pixels.shape[-1], target_px=_TARGET_PX)
    images = [pictures.to_image(p, scale=scale) for p in pixels.numpy()]
    frames, times = film.develop(pixels)
    record = {
        "jitflow": jitflow.__version__,
        "checkpoint": model.source,
        **settings,
        **asked,
        "seeds": seeds,
        **({"texts": texts} if texts else {}),
    }
    return Drawing(images, captions, texts, frames, times, {**record, "python": python_line(record)})


def python_line(record: dict[str, Any]) -> str:
    """Return the Python that makes a drawing again from its record."""
    common = f"seeds={record['seeds']}, solver={record['solver']!r}, steps={record['steps']}, ema={record['ema']}"
    if "labels" not in record:
        prompt = f"prompt={record['prompt']!r}, churn={record['churn']}"
        return (
            "from jitflow.pipelines.text_sample import load_text_model, write_texts; "
            f"write_texts(load_text_model({record['checkpoint']!r}), {len(record['seeds'])}, {prompt}, {common})"
        )
    guided = f"guidance={record['guidance']}, interval={tuple(record['interval'])}"
    return f"import jitflow; jitflow.load({record['checkpoint']!r}).sample({record['labels']}, {guided}, {common})"


def _name(module: FlowModule, label: int) -> str:
    if label == module.num_classes:
        return "any class"
    return f"user {module.user_ids[label]}" if isinstance(module, UserConditionedDiT) else f"class {label}"


class _Film:
    """Keeps some of the states of a sampling, evenly spread over its steps."""

    def __init__(self, module: FlowModule, on_step: OnStep | None) -> None:
        self.module = module
        self.on_step = on_step
        self._states: list[tuple[float, Tensor]] = []

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Record every sampling of the module inside the block, beside whoever else watches it."""
        inner = self.module.watch_sampling

        @contextmanager
        def both(on_step: Callable[[int, int, float, Tensor], None]) -> Iterator[None]:
            def step(done: int, in_all: int, t: float, x: Tensor) -> None:
                self._take(done, in_all, t, x)
                on_step(done, in_all, t, x)

            with inner(step):
                yield

        # The functions that sample put a watcher of their own in the only place there is.
        vars(self.module)["watch_sampling"] = both
        try:
            yield
        finally:
            del vars(self.module)["watch_sampling"]

    def _take(self, done: int, in_all: int, t: float, x: Tensor) -> None:
        every = max(1, -(-in_all // _MAX_FRAMES))
        if done % every == 0 and done < in_all:
            self._states.append((float(t), x.detach().clone()))
            if self.on_step is not None:
                self.on_step(done, in_all, self._picture(self.module.codec.decode(x).cpu()))

    def develop(self, pixels: Tensor) -> tuple[list[Image.Image], list[float]]:
        """Return the pictures and their times; ``pixels`` of shape ``(N, C, H, W)``, uint8, are the last."""
        frames = [self._picture(self.module.codec.decode(x).cpu()) for _, x in self._states]
        return [*frames, self._picture(pixels)], [*(t for t, _ in self._states), 1.0]

    def _picture(self, pixels: Tensor) -> Image.Image:
        assert pixels.dtype == torch.uint8
        scale = pictures.display_scale(pixels.shape[-1], target_px=_TARGET_PX)
        return pictures.grid(pixels.numpy(), columns=min(8, max(2, round(len(pixels) ** 0.5))), scale=scale)
