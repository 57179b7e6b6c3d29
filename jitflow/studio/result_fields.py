"""Fields of the page that show results: the message, images and texts, the time slider, and files to download."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import gradio as gr

# What a drawing changes, besides the message; the last is no widget but the session's drawings.
OUTPUTS = ("image_a", "image_b", "text_a", "text_b", "time", "command", "png", "record", "drawings")


@dataclass(frozen=True)
class ResultFields:
    """Widgets of the page that show sampled images and texts.

    Attributes:
        message: What is going on, or why a request was refused.
        image_a: All images of the first drawing.
        image_b: All images of the second.
        text_a: Texts of the first drawing, where its model writes text.
        text_b: Texts of the second.
        time: Slider over the times of the frames.
        command: Shell command that draws the same.
        png: Button that downloads the images.
        record: Button that downloads the record.
    """

    message: Any
    image_a: Any
    image_b: Any
    text_a: Any
    text_b: Any
    time: Any
    command: Any
    png: Any
    record: Any

    @classmethod
    def build(cls) -> ResultFields:
        """Build the widgets in the present column."""
        said = gr.HTML(message("Choose, and press Generate."), elem_id="said")
        # Where there is text it stands beside its image, one side below the other.
        with gr.Row():
            image_a, text_a = _image("a"), _text("a")
            image_b, text_b = _image("b"), _text("b")
        time = gr.Slider(
            0, 1, value=1, step=0.01, label="Time, from noise (0) to image (1)", interactive=False, elem_id="time"
        )
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
        return cls(said, image_a, image_b, text_a, text_b, time, command, png, record)

    def outputs(self, drawings: Any) -> list[Any]:
        """Return the message and what ``OUTPUTS`` names, the order of :func:`output_values`.

        Args:
            drawings: State of the session that holds its drawings.
        """
        return [self.message, *(getattr(self, name) for name in OUTPUTS[:-1]), drawings]


def output_values(text: str, **changed: Any) -> list[Any]:
    """Return the values of the page's outputs; images, texts and others that are not named stay as they are.

    Args:
        text: Markup of the message.
        changed: New values by names of ``OUTPUTS``.
    """
    return [text, *(changed.get(name, gr.skip()) for name in OUTPUTS)]


def message(text: str, *, refused: bool = False) -> str:
    """Return the markup of a message, escaped, since it may hold what a user typed.

    Args:
        text: The message.
        refused: Whether it says why a request was refused.
    """
    mark = ' class="refused" role="alert"' if refused else ""
    # Half a character could not be sent.
    text = text.encode(errors="replace").decode()
    return f"<p{mark}>{html.escape(text)}</p>"


def progress_message(text: str, share: float) -> str:
    """Return the markup of a message with a progress bar below it.

    Args:
        text: The message.
        share: Length of the bar, in ``[0, 1]``.
    """
    return f'{message(text)}<div class="bar" role="progressbar"><div style="width: {100 * share:.1f}%"></div></div>'


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
