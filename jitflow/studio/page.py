"""The page: fields that make requests, pictures that appear, a slider through the time, files to keep."""

from __future__ import annotations

import html
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
from jitflow.model import Model
from jitflow.studio.drawing import Drawing, draw
from jitflow.studio.library import Library
from jitflow.studio.request import Request, available_averages, default_request
from jitflow.studio.worker import Event, StoppedError, events_of

SOLVERS = ("euler", "heun", "midpoint", "multistep")
_QUEUE_SIZE = 8
_KEPT_SEC = 3600
_FONTS = ("system-ui", "sans-serif")
_MONO = ("ui-monospace", "monospace")
# What a drawing changes, besides the message.
_OUTPUTS = ("image_a", "image_b", "text_a", "text_b", "time", "command", "png", "record", "drawings")
_CSS = """
.gradio-container main { width: 100%; max-width: 1500px; margin: 0 auto; }
#said p { margin: 0; }
#said .bar { height: .4rem; margin-top: .4rem; border-radius: .2rem; background: #8a8f9840; }
#said .bar div { height: 100%; border-radius: .2rem; background: #1f6fb4; }
#said .refused { color: #b3261e; font-weight: 600; }
#text-a textarea, #text-b textarea, #command textarea { font-family: ui-monospace, monospace; font-size: .85rem; }
"""


def build_page(library: Library) -> gr.Blocks:
    """Build the page for the checkpoints of a library.

    Args:
        library: The checkpoints; the first is opened at once, so that its own settings fill the fields.

    Returns:
        The page, not started; see :func:`launch_options` for how to start it.
    """
    first = library.open(library.names[0])
    shown, named = default_request(first), first.application.subject
    running: dict[str | None, threading.Event] = {}

    def generate(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        running[request.session_hash] = threading.Event()
        try:
            yield from answer(library, running[request.session_hash], *values)
        finally:
            running.pop(request.session_hash, None)

    # Gradio could cancel by itself, but would ignore a press of Generate until the step it is at has ended.
    def stop(request: gr.Request) -> None:
        if request.session_hash in running:
            running[request.session_hash].set()

    with gr.Blocks(
        title="jitflow studio", analytics_enabled=False, fill_width=True, delete_cache=(_KEPT_SEC, _KEPT_SEC)
    ) as page:
        gr.Markdown("## jitflow studio")
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                checkpoint = gr.Dropdown(library.names, label="Checkpoint", elem_id="checkpoint")
                subject = gr.Textbox(shown.subject, label=named.title, info=named.example, lines=1, elem_id="subject")
                with gr.Row():
                    count = gr.Number(shown.count, label=named.count_title, min_width=120, elem_id="count")
                    seed = gr.Number(shown.seed, label="First seed", min_width=120, elem_id="seed")
                with gr.Row():
                    button = gr.Button("Generate", variant="primary", elem_id="generate")
                    stop_button = gr.Button("Stop", min_width=80, scale=0, elem_id="stop")
                left = _setting_fields(first, "a")
                compare = gr.Checkbox(False, label="Compare with settings B, same seeds", elem_id="compare")
                with gr.Column(visible=False) as second_column:
                    right = _setting_fields(first, "b")
            with gr.Column(scale=3):
                said = gr.HTML(_said("Choose, and press Generate."), elem_id="said")
                # Where there is text it stands beside its image, one side below the other.
                with gr.Row():
                    image_a, text_a = _image("a"), _text("a")
                    image_b, text_b = _image("b"), _text("b")
                time = gr.Slider(
                    0, 1, value=1, step=0.01, label="Time, from noise (0) to image (1)", interactive=False,
                    elem_id="time",
                )  # fmt: skip
                command = gr.Textbox(
                    label="The same in a shell",
                    lines=1,
                    max_lines=6,
                    interactive=False,
                    visible=False,
                    buttons=["copy"],
                    elem_id="command",
                )
                with gr.Row():
                    png = gr.DownloadButton("Download PNG", interactive=False, elem_id="png")
                    record = gr.DownloadButton("Download JSON that reproduces it", interactive=False, elem_id="json")
        drawings: gr.State = gr.State([], time_to_live=_KEPT_SEC)
        fields = [checkpoint, subject, count, seed, compare, *left, *right]
        shown_in = {
            "image_a": image_a,
            "image_b": image_b,
            "text_a": text_a,
            "text_b": text_b,
            "time": time,
            "command": command,
            "png": png,
            "record": record,
            "drawings": drawings,
        }
        compare.change(lambda on: gr.update(visible=on), compare, second_column, queue=False, api_visibility="private")
        checkpoint.change(
            lambda name: _fields_of(library, name),
            checkpoint,
            [said, subject, count, *left, *right],
            api_visibility="private",
        )
        gr.on(
            [button.click, subject.submit],
            generate,
            fields,
            [said, *(shown_in[name] for name in _OUTPUTS)],
            show_progress="hidden",
            api_visibility="private",
        )
        stop_button.click(stop, queue=False, show_progress="hidden", api_visibility="private")
        # The last place of a slider counts, also when those before it are still on their way.
        time.input(
            frames_at,
            [drawings, time],
            [image_a, image_b],
            queue=False,
            show_progress="hidden",
            trigger_mode="always_last",
            api_visibility="private",
        )
    return page.queue(max_size=_QUEUE_SIZE, default_concurrency_limit=1)


def requests_of(subject: str, count: Any, seed: Any, compare: bool, *settings: Any) -> list[Request]:
    """Make one request of the page's fields, or two with the same subject and seeds.

    Args:
        subject: Classes, users or prompt.
        count: Images of each.
        seed: First seed.
        compare: Whether there are two.
        settings: EMA, solver, steps, guidance, interval, churn of the first, then of the second.
    """
    sides = [settings[:6], settings[6:]] if compare else [settings[:6]]
    return [
        Request(subject or "", count, seed, ema, solver, steps, guidance, interval or "", churn)
        for ema, solver, steps, guidance, interval, churn in sides
    ]


def answer(library: Library, stopped: threading.Event, name: str, *fields: Any) -> Iterator[list[Any]]:
    """Draw what the fields ask for; yield the page's outputs again and again while it comes about.

    Args:
        library: The checkpoints.
        stopped: Set to end the drawing early.
        name: The checkpoint's.
        fields: See :func:`requests_of`.

    Yields:
        Values of the message and of what ``_OUTPUTS`` names.
    """
    finished: list[Drawing] = []
    try:
        model = library.open(name)
        requests = requests_of(*fields)
        for side, request in enumerate(requests):
            work = events_of(
                lambda on_frame, r=request: draw(model, r, vavae_path=library.vavae_path, on_frame=on_frame),  # type: ignore[misc]
                stopped,
            )
            for event in work:
                if isinstance(event, Drawing):
                    finished.append(event)
                    continue
                yield _under_way("ab"[side], event, num_sides=len(requests))
    except JitflowError as error:
        yield _outputs(_said(str(error), refused=True))
        return
    except StoppedError:
        yield _outputs(_said("Stopped."))
        return
    except torch.OutOfMemoryError:
        yield _outputs(_said("the memory of the device is full; ask for fewer images", refused=True))
        return
    # Gradio copies the files before it asks for more.
    with tempfile.TemporaryDirectory(prefix="jitflow-studio-") as folder:
        yield _finished_page(finished, Path(folder))


def frames_at(drawings: list[Drawing], t: float) -> list[Any]:
    """Return both images as they were at a time in ``[0, 1]``."""
    shown: list[Any] = [gr.skip(), gr.skip()]
    for side, drawing in enumerate(drawings):
        picture, time = drawing.frame_at(t)
        shown[side] = gr.update(value=picture, label=f"{'AB'[side]}, t = {time:.2f}")
    return shown


def save_drawings(drawings: list[Drawing], folder: Path) -> tuple[Path, Path]:
    """Write a PNG of all drawings side by side and a JSON of their records; return both."""
    width = sum(d.grid.width for d in drawings) + 8 * (len(drawings) - 1)
    sheet = Image.new("RGB", (width, max(d.grid.height for d in drawings)), "white")
    left = 0
    for drawing in drawings:
        sheet.paste(drawing.grid.convert("RGB"), (left, 0))
        left += drawing.grid.width + 8
    png, record = folder / "jitflow.png", folder / "jitflow.json"
    pictures.save_image(sheet, png)
    write_json(record, [d.record for d in drawings])
    return png, record


def launch_options(*, host: str, port: int | None) -> dict[str, Any]:
    """Return arguments of ``launch`` under which page and server ask for nothing outside this machine."""
    from starlette.middleware import Middleware

    return {
        "server_name": host,
        "server_port": port,
        "share": False,
        "ssr_mode": False,
        "mcp_server": False,
        "enable_monitoring": False,
        "run_history": False,
        "footer_links": [],
        "theme": gr.themes.Default(primary_hue="blue", font=_FONTS, font_mono=_MONO),
        "css": _CSS,
        "app_kwargs": {"middleware": [Middleware(OwnHostOnly)]},
        "quiet": True,
    }


class OwnHostOnly:
    """Middleware: tells the browser to load nothing from any other host.

    Args:
        app: The application behind it.
    """

    POLICY = (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self'; frame-ancestors 'self'; "
        "form-action 'self'"
    )

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request with the policy among the headers."""

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", []), (b"content-security-policy", self.POLICY.encode())]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, with_policy)


def _setting_fields(model: Model, side: str) -> list[Any]:
    shown, guided = default_request(model), _is_guided(model)
    with gr.Group():
        with gr.Row():
            steps = gr.Number(shown.steps, label=f"{side.upper()}: steps", min_width=120, elem_id=f"steps-{side}")
            solver = gr.Dropdown(SOLVERS, value=shown.solver, label="Solver", min_width=120, elem_id=f"solver-{side}")
        with gr.Row():
            guidance = gr.Number(
                shown.guidance, label="Guidance", visible=guided, min_width=120, elem_id=f"guidance-{side}"
            )
            interval = gr.Textbox(
                shown.interval, label="Between times", visible=guided, min_width=120, elem_id=f"interval-{side}"
            )
            churn = gr.Number(shown.churn, label="Churn", visible=not guided, min_width=120, elem_id=f"churn-{side}")
        ema = gr.Dropdown(_averages(model), value=shown.ema, label="Weights", elem_id=f"ema-{side}")
    return [ema, solver, steps, guidance, interval, churn]


def _image(side: str) -> gr.Image:
    return gr.Image(
        label=side.upper(),
        type="pil",
        format="png",
        interactive=False,
        visible=side == "a",
        height="60vh",
        min_width=360,
        buttons=["fullscreen"],
        elem_id=f"image-{side}",
    )


def _text(side: str) -> gr.Textbox:
    return gr.Textbox(
        label=f"Text {side.upper()}",
        lines=20,
        max_lines=24,
        interactive=False,
        visible=False,
        min_width=360,
        elem_id=f"text-{side}",
    )


def _is_guided(model: Model) -> bool:
    """Whether guidance makes sense; churn is shown where it does not."""
    return model.module.label_drop_prob > 0


def _averages(model: Model) -> list[tuple[str, int]]:
    return [(f"EMA {n}" if n else "no average", n) for n in available_averages(model.module)]


def _fields_of(library: Library, name: str) -> list[Any]:
    """Fill the fields with the settings of another checkpoint."""
    try:
        model = library.open(name)
    except JitflowError as error:
        return [_said(str(error), refused=True), *[gr.skip()] * 14]
    shown, guided, named = default_request(model), _is_guided(model), model.application.subject

    def side() -> list[Any]:
        return [
            gr.update(choices=_averages(model), value=shown.ema),
            gr.update(value=shown.solver),
            gr.update(value=shown.steps),
            gr.update(value=shown.guidance, visible=guided),
            gr.update(value=shown.interval, visible=guided),
            gr.update(value=shown.churn, visible=not guided),
        ]

    asked = [
        gr.update(value=shown.subject, label=named.title, info=named.example),
        gr.update(label=named.count_title),
    ]
    return [_said(f"{name} is loaded."), *asked, *side(), *side()]


def _outputs(said: str, **changed: Any) -> list[Any]:
    """Return the message and a value for each output; those that are not named stay as they are."""
    return [said, *(changed.get(name, gr.skip()) for name in _OUTPUTS)]


def _under_way(side: str, event: Event, *, num_sides: int) -> list[Any]:
    done, in_all, picture = event
    words = f"step {done} of {in_all}"
    said = f"Drawing {side.upper()}: {words}" if num_sides > 1 else words.capitalize()
    shown = {f"image_{side}": gr.update(value=picture, visible=True, label=side.upper())}
    return _outputs(_progress(said, done / in_all), text_a="", text_b="", **shown)


def _finished_page(drawings: list[Drawing], folder: Path) -> list[Any]:
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
    return _outputs(
        _said(f"{_summary(drawings[0])} The slider shows how they came about."),
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
    return f"{what}; seeds {seeds[0]} to {seeds[-1]}."


def _joined(drawing: Drawing) -> str:
    texts = zip(drawing.record["seeds"], drawing.texts, strict=True)
    return "\n\n".join(f"--- seed {seed}\n{text}" for seed, text in texts)


def _said(text: str, *, refused: bool = False) -> str:
    """Markup of a message, which may hold what somebody typed."""
    mark = ' class="refused" role="alert"' if refused else ""
    return f"<p{mark}>{html.escape(text)}</p>"


def _progress(text: str, share: float) -> str:
    return f'{_said(text)}<div class="bar" role="progressbar"><div style="width: {100 * share:.1f}%"></div></div>'
