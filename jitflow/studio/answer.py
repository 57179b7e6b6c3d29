"""Answer of the page to a request: progress while it is drawn, then images, texts, files and the command."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image

from jitflow import pictures
from jitflow.errors import JitflowError
from jitflow.io.files import write_json
from jitflow.studio.drawing import Drawing, draw
from jitflow.studio.library import Library
from jitflow.studio.request_fields import requests_of
from jitflow.studio.result_fields import message, output_values, progress_message
from jitflow.studio.worker import Event, StoppedError, WaitingLine, events_of

_GAP_PX = 8
_LINE = WaitingLine()


def answer(library: Library, stopped: threading.Event, name: str, *fields: Any) -> Iterator[list[Any]]:
    """Draw the images that the fields ask for; yield the page's outputs as the sampling goes on.

    Args:
        library: The checkpoints.
        stopped: Set to end the drawing early.
        name: The checkpoint's.
        fields: See :func:`~jitflow.studio.request_fields.requests_of`.

    Yields:
        Values of the page's outputs; see :func:`~jitflow.studio.result_fields.output_values`.
    """
    finished: list[Drawing] = []
    try:
        _LINE.join(stopped)
        for ahead in _LINE.places(stopped):
            yield output_values(message(f"Waiting: {ahead} request{'s' if ahead > 1 else ''} before yours."))
        note = library.changed(name)
        model = library.open(name)
        requests = requests_of(*fields)
        for side, request in enumerate(requests):
            events = events_of(
                lambda on_frame, check, r=request: draw(  # type: ignore[misc]
                    model, r, vavae_path=library.vavae_path, on_frame=on_frame, before_call=check
                ),
                stopped,
            )
            for event in events:
                if isinstance(event, Drawing):
                    finished.append(event)
                    continue
                yield _progress("ab"[side], event, num_sides=len(requests))
    except JitflowError as error:
        yield output_values(message(str(error), refused=True))
        return
    except StoppedError:
        yield output_values(message("Stopped."))
        return
    except torch.OutOfMemoryError:
        yield output_values(message("the memory of the device is full; ask for fewer images", refused=True))
        return
    finally:
        _LINE.leave(stopped)
    # Gradio copies the files before it asks for more.
    with tempfile.TemporaryDirectory(prefix="jitflow-studio-") as folder:
        yield _finished(finished, Path(folder), note)


def frames_at(drawings: list[Drawing], t: float) -> list[Any]:
    """Return both images as they were at a time.

    Args:
        drawings: One or two drawings.
        t: Time in ``[0, 1]``; 0 is noise.
    """
    shown: list[Any] = [gr.skip(), gr.skip()]
    if not isinstance(t, int | float):
        return shown
    for side, drawing in enumerate(drawings):
        picture, time = drawing.frame_at(t)
        shown[side] = gr.update(value=picture, label=f"{'AB'[side]}, t = {time:.2f}")
    return shown


def save_drawings(drawings: list[Drawing], folder: Path) -> tuple[Path, Path]:
    """Write a PNG of all drawings side by side and a JSON of their records; return both.

    Args:
        drawings: The drawings.
        folder: Where to.
    """
    width = sum(d.grid.width for d in drawings) + _GAP_PX * (len(drawings) - 1)
    sheet = Image.new("RGB", (width, max(d.grid.height for d in drawings)), "white")
    left = 0
    for drawing in drawings:
        sheet.paste(drawing.grid.convert("RGB"), (left, 0))
        left += drawing.grid.width + _GAP_PX
    png, record = folder / "jitflow.png", folder / "jitflow.json"
    pictures.save_image(sheet, png)
    write_json(record, [d.record for d in drawings])
    return png, record


def _progress(side: str, event: Event, *, num_sides: int) -> list[Any]:
    done, total, picture = event
    step = f"step {done} of {total}"
    text = f"Drawing {side.upper()}: {step}" if num_sides > 1 else step.capitalize()
    shown = {f"image_{side}": gr.update(value=picture, visible=True, label=side.upper())}
    return output_values(progress_message(text, done / total), text_a="", text_b="", **shown)


def _finished(drawings: list[Drawing], folder: Path, note: str) -> list[Any]:
    png, record = save_drawings(drawings, folder)
    commands = "\n".join(d.record["command"] for d in drawings)
    shown: dict[str, Any] = {}
    for side, drawing in zip_longest("ab", drawings):
        texts = _joined(drawing) if drawing and drawing.texts else ""
        shown[f"text_{side}"] = gr.update(value=texts, visible=bool(texts))
        shown[f"image_{side}"] = (
            gr.update(value=drawing.grid, visible=True, label=side.upper())
            if drawing
            else gr.update(value=None, visible=False)
        )
    return output_values(
        message(f"{_summary(drawings[0])} The slider shows how they came about. {note}".rstrip()),
        **shown,
        time=gr.update(value=1, interactive=True),
        command=gr.update(value=commands, visible=bool(commands)),
        png=gr.update(value=str(png), interactive=True),
        record=gr.update(value=str(record), interactive=True),
        drawings=drawings,
    )


def _summary(drawing: Drawing) -> str:
    seeds = drawing.record["seeds"]
    what = f"{len(seeds)} texts" if drawing.texts else f"{len(seeds)} images, row by row {', '.join(drawing.subjects)}"
    steps = drawing.record["steps"]
    took = f"{steps} step{'s' if steps > 1 else ''} in {drawing.seconds:.2g} s"
    return f"{what}; seeds {seeds[0]} to {seeds[-1]}; {took}."


def _joined(drawing: Drawing) -> str:
    texts = zip(drawing.record["seeds"], drawing.texts, strict=True)
    return "\n\n".join(f"--- seed {seed}\n{text}" for seed, text in texts)
