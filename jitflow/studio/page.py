"""The studio page: request fields on the left, results on the right, and the click handlers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from jitflow.studio.answer import answer, frames_at
from jitflow.studio.library import Library
from jitflow.studio.own_host import OwnHostOnly
from jitflow.studio.request_fields import RequestFields, updates_for
from jitflow.studio.result_fields import ResultFields
from jitflow.studio.sessions import Sessions, SessionWatch
from jitflow.studio.worker import MAX_WAITING

# The waiting line is ours: it tells each request its place. One more can be refused in words.
_AT_ONCE = MAX_WAITING + 2
# Sessions whose drawings are kept for the slider, and how long their files and they are.
_MAX_SESSIONS, _CLEANED_EVERY_SEC, _KEPT_SEC = 8, 300, 1800
_FONTS = ("system-ui", "sans-serif")
_MONO = ("ui-monospace", "monospace")
_CSS = """
.gradio-container main { width: 100%; max-width: 1500px; margin: 0 auto; }
#said p { margin: 0; }
#said .bar { height: .4rem; margin-top: .4rem; border-radius: .2rem; background: #8a8f9840; }
#said .bar div { height: 100%; border-radius: .2rem; background: #1f6fb4; }
#said .refused { color: #b3261e; font-weight: 600; }
#text-a textarea, #text-b textarea, #command textarea { font-family: ui-monospace, monospace; font-size: .85rem; }
"""


def build_page(library: Library, sessions: Sessions | None = None) -> gr.Blocks:
    """Build the page for the checkpoints of a library.

    Args:
        library: The checkpoints; the first is opened immediately to fill the fields with its settings.
        sessions: The sessions that :func:`launch_options` watches.

    Returns:
        The page, not started; see :func:`launch_options` for how to start it.
    """
    model = library.open(library.names[0])
    with gr.Blocks(
        title="jitflow studio", analytics_enabled=False, fill_width=True, delete_cache=(_CLEANED_EVERY_SEC, _KEPT_SEC)
    ) as page:
        gr.Markdown("## jitflow studio")
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                request = RequestFields.build(library, model)
            with gr.Column(scale=3):
                results = ResultFields.build()
        drawings: gr.State = gr.State([], time_to_live=_KEPT_SEC)
        _connect_fields(library, request, results)
        _connect_buttons(library, sessions or Sessions(), request, results, drawings)
        # Only the last slider position matters, even while earlier events are pending.
        results.time.input(
            frames_at,
            [drawings, results.time],
            [results.image_a, results.image_b],
            queue=False,
            show_progress="hidden",
            trigger_mode="always_last",
            api_visibility="private",
        )
    return page.queue(max_size=_AT_ONCE, default_concurrency_limit=1)


def _connect_fields(library: Library, request: RequestFields, results: ResultFields) -> None:
    """Show the settings B when enabled, and load a checkpoint's settings when it is selected."""
    request.compare.change(
        lambda on: gr.update(visible=on), request.compare, request.column_b, queue=False, api_visibility="private"
    )
    request.checkpoint.change(
        lambda name: updates_for(library, name),
        request.checkpoint,
        [results.message, *request.of_checkpoint],
        api_visibility="private",
    )


def _connect_buttons(
    library: Library, sessions: Sessions, request: RequestFields, results: ResultFields, drawings: gr.State
) -> None:
    """Connect Generate to sampling, and Stop to the session's running sampling."""

    def generate(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        stopped = sessions.start(request.session_hash)
        try:
            yield from answer(library, stopped, *values)
        finally:
            sessions.finish(request.session_hash, stopped)

    # Gradio's own cancelling would ignore Generate until the current step has ended.
    def stop(request: gr.Request) -> None:
        sessions.stop(request.session_hash)

    gr.on(
        [request.generate.click, request.subject.submit],
        generate,
        request.inputs,
        results.outputs(drawings),
        show_progress="hidden",
        api_visibility="private",
        concurrency_limit=_AT_ONCE,
    )
    request.stop.click(stop, queue=False, show_progress="hidden", api_visibility="private")


def launch_options(*, host: str, port: int | None, sessions: Sessions | None = None) -> dict[str, Any]:
    """Return launch options of the web page that keep page and server from contacting other hosts.

    Args:
        host: Address to listen on.
        port: Port to listen on; a free one if None.
        sessions: The sessions of the page, whose sampling ends when their browser is gone.
    """
    from starlette.middleware import Middleware

    watch = Middleware(SessionWatch, sessions=sessions or Sessions())
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
        "state_session_capacity": _MAX_SESSIONS,
        "app_kwargs": {"middleware": [Middleware(OwnHostOnly, host=host), watch]},
        "quiet": True,
    }
