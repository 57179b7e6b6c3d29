"""The page: fields that make requests, pictures that appear, a slider through the time, files to keep."""

from __future__ import annotations

import json
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from jitflow import pictures
from jitflow.errors import JitflowError
from jitflow.files import write_text
from jitflow.pipelines.runs import APPLICATIONS
from jitflow.studio.drawing import Drawing, draw
from jitflow.studio.library import Library
from jitflow.studio.request import MAX_IMAGES, MAX_STEPS, Request, available_averages, default_request
from jitflow.training.formats import TEXT

SOLVERS = ("euler", "heun", "midpoint", "multistep")
_QUEUE_SIZE = 8
_FONTS = ("system-ui", "sans-serif")
_MONO = ("ui-monospace", "monospace")
_SUBJECTS = {
    "images": "Classes, such as 0,3,7-9 or all",
    "micro-Doppler": "Users, such as 1,2 or all",
    "text": "Prompt; may be empty",
}
Event = tuple[int, int, Image.Image]


def build_page(library: Library) -> gr.Blocks:
    """Build the page for the checkpoints of a library.

    Args:
        library: The checkpoints; the first is opened at once, so that its own settings fill the fields.

    Returns:
        The page, not started; see :func:`launch_options` for how to start it.
    """
    first = library.open(library.names[0]).module
    with gr.Blocks(title="jitflow studio", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown("# jitflow studio")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                checkpoint = gr.Dropdown(
                    library.names, value=library.names[0], label="Checkpoint", elem_id="checkpoint"
                )
                shown = default_request(first)
                subject = gr.Textbox(shown.subject, label=_SUBJECTS[application_of(first)], elem_id="subject")
                with gr.Row():
                    count = gr.Number(shown.count, label=f"Count of each (at most {MAX_IMAGES} in all)", precision=0,
                                      elem_id="count")  # fmt: skip
                    seed = gr.Number(shown.seed, label="First seed", precision=0, elem_id="seed")
                gr.Markdown("### Setting A")
                left = _setting_fields(first, "a")
                compare = gr.Checkbox(False, label="Compare with a second setting, same seeds", elem_id="compare")
                with gr.Column(visible=False) as second_column:
                    gr.Markdown("### Setting B")
                    right = _setting_fields(first, "b")
                button = gr.Button("Draw", variant="primary", elem_id="draw")
            with gr.Column(scale=3):
                status = gr.Markdown("Choose, and press Draw.", elem_id="status")
                with gr.Row():
                    image_a = gr.Image(label="A", type="pil", format="png", interactive=False, elem_id="image-a")
                    image_b = gr.Image(
                        label="B", type="pil", format="png", interactive=False, visible=False, elem_id="image-b"
                    )
                time = gr.Slider(0, 1, value=1, step=1, label="From noise to image: frame", elem_id="time")
                with gr.Row():
                    text_a = gr.Textbox(label="Text A", lines=8, interactive=False, visible=False, elem_id="text-a")
                    text_b = gr.Textbox(label="Text B", lines=8, interactive=False, visible=False, elem_id="text-b")
                with gr.Row():
                    png = gr.DownloadButton("Download PNG", interactive=False, elem_id="png")
                    record = gr.DownloadButton("Download JSON that reproduces it", interactive=False, elem_id="json")
        drawings: gr.State = gr.State([])
        fields = [checkpoint, subject, count, seed, compare, *left, *right]
        outputs = [status, image_a, image_b, time, text_a, text_b, png, record, drawings]
        compare.change(lambda on: gr.update(visible=on), compare, second_column, queue=False, api_visibility="private")
        checkpoint.change(
            lambda name: _fields_of(library, name), checkpoint, [subject, *left, *right], api_visibility="private"
        )
        button.click(
            lambda *values: answer(library, *values), fields, outputs, concurrency_limit=1, api_visibility="private"
        )
        time.input(frame_at, [drawings, time], [image_a, image_b], queue=False, api_visibility="private")
    return page.queue(max_size=_QUEUE_SIZE, default_concurrency_limit=1)


def application_of(module: Any) -> str:
    """Return ``images``, ``text`` or ``micro-Doppler`` for a module."""
    return APPLICATIONS.get(f"{type(module).__module__}.{type(module).__qualname__}", "images")


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


def answer(library: Library, name: str, *fields: Any) -> Iterator[list[Any]]:
    """Draw what the fields ask for; yield the page's outputs again and again while it comes about.

    Args:
        library: The checkpoints.
        name: The checkpoint's.
        fields: See :func:`requests_of`.

    Yields:
        Values of status, both images, slider, both texts, both downloads, and the drawings.
    """
    empty = [gr.skip()] * 8
    try:
        model = library.open(name)
        requests = requests_of(*fields)
        finished: list[Drawing] = []
        for side, request in enumerate(requests):
            letter = "AB"[side]
            for event in _events(lambda on_step, r=request: draw(model, r, on_step=on_step)):  # type: ignore[misc]
                if isinstance(event, Drawing):
                    finished.append(event)
                    continue
                done, in_all, picture = event
                shown = [gr.skip(), gr.skip()]
                shown[side] = gr.update(value=picture, visible=True)
                said = f"Drawing {letter}: step {done} of {in_all}"
                yield [said, *shown, *[gr.skip()] * 6]
    except JitflowError as error:
        yield [f"**This cannot be drawn:** {error}", *empty]
        return
    yield _finished_page(finished)


def frame_at(drawings: list[Drawing], frame: float) -> list[Any]:
    """Return both images at a frame of the way from noise to image; the last frame is the result."""
    shown: list[Any] = [gr.skip(), gr.skip()]
    for side, drawing in enumerate(drawings):
        shown[side] = drawing.frames[min(int(frame), len(drawing.frames) - 1)]
    return shown


def save_drawings(drawings: list[Drawing]) -> tuple[Path, Path]:
    """Write a PNG of all drawings side by side and a JSON of their records; return both."""
    folder = Path(tempfile.mkdtemp(prefix="jitflow-studio-"))
    width = sum(d.grid.width for d in drawings) + 8 * (len(drawings) - 1)
    sheet = Image.new("RGB", (width, max(d.grid.height for d in drawings)), "white")
    left = 0
    for drawing in drawings:
        sheet.paste(drawing.grid.convert("RGB"), (left, 0))
        left += drawing.grid.width + 8
    pictures.save_image(sheet, folder / "jitflow.png")
    write_text(folder / "jitflow.json", json.dumps([d.record for d in drawings], indent=2, ensure_ascii=False) + "\n")
    return folder / "jitflow.png", folder / "jitflow.json"


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
        "footer_links": [],
        "theme": gr.themes.Default(font=_FONTS, font_mono=_MONO),
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


def _setting_fields(module: Any, side: str) -> list[Any]:
    shown, text = default_request(module), application_of(module) == APPLICATIONS[TEXT]
    return [
        gr.Dropdown(_averages(module), value=shown.ema, label="Weights", elem_id=f"ema-{side}"),
        gr.Dropdown(SOLVERS, value=shown.solver, label="Solver", elem_id=f"solver-{side}"),
        gr.Number(shown.steps, label=f"Steps (at most {MAX_STEPS})", precision=0, elem_id=f"steps-{side}"),
        gr.Number(shown.guidance, label="Guidance (1: none)", visible=not text, elem_id=f"guidance-{side}"),
        gr.Textbox(shown.interval, label="Guidance acts between times", visible=not text, elem_id=f"interval-{side}"),
        gr.Number(shown.churn, label="Churn, in steps", visible=text, elem_id=f"churn-{side}"),
    ]


def _averages(module: Any) -> list[tuple[str, int]]:
    return [(f"EMA {n}" if n else "the weights themselves", n) for n in available_averages(module)]


def _fields_of(library: Library, name: str) -> list[Any]:
    """Fill the fields with the settings of another checkpoint."""
    try:
        module = library.open(name).module
    except JitflowError as error:
        raise gr.Error(str(error)) from None
    shown, application = default_request(module), application_of(module)
    text = application == APPLICATIONS[TEXT]
    side = [
        gr.update(choices=_averages(module), value=shown.ema),
        gr.update(value=shown.solver),
        gr.update(value=shown.steps),
        gr.update(value=shown.guidance, visible=not text),
        gr.update(value=shown.interval, visible=not text),
        gr.update(value=shown.churn, visible=text),
    ]
    return [gr.update(value=shown.subject, label=_SUBJECTS[application]), *side, *side]


def _finished_page(drawings: list[Drawing]) -> list[Any]:
    png, record = save_drawings(drawings)
    last = max(len(d.frames) for d in drawings) - 1
    padded: list[Drawing | None] = [*drawings, None][:2]
    images = [gr.update(value=d.grid, visible=True) if d else gr.update(value=None, visible=False) for d in padded]
    texts = [
        gr.update(value=_joined(d), visible=True) if d and d.texts else gr.update(value="", visible=False)
        for d in padded
    ]
    said = f"{sum(len(d.images) for d in drawings)} images. The slider shows how they came about."
    return [
        said,
        *images,
        gr.update(maximum=max(1, last), value=last),
        *texts,
        gr.update(value=str(png), interactive=True),
        gr.update(value=str(record), interactive=True),
        drawings,
    ]


def _joined(drawing: Drawing) -> str:
    return "\n\n".join(f"--- {caption}\n{text}" for caption, text in zip(drawing.captions, drawing.texts, strict=True))


def _events(work: Callable[[Callable[[int, int, Image.Image], None]], Drawing]) -> Iterator[Event | Drawing]:
    """Run work in a thread; yield what it reports, then what it returns, or raise what it raised."""
    events: queue.Queue[Event | Drawing | BaseException] = queue.Queue()

    def run() -> None:
        try:
            events.put(work(lambda done, in_all, picture: events.put((done, in_all, picture))))
        # Handed over to the thread that waits, which raises it.
        except BaseException as error:  # noqa: BLE001
            events.put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while True:
        event = events.get()
        if isinstance(event, BaseException):
            raise event
        yield event
        if isinstance(event, Drawing):
            return
