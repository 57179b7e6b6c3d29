"""Fields of the page that make a request: checkpoint, subject, seeds, and two columns of sampling settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from jitflow.errors import JitflowError
from jitflow.model import Model
from jitflow.studio.library import Library
from jitflow.studio.request import Request, available_averages, default_request
from jitflow.studio.result_fields import message

SOLVERS = ("euler", "heun", "midpoint", "multistep", "consistency")


@dataclass(frozen=True)
class RequestFields:
    """Widgets of the page for a sampling request.

    Attributes:
        checkpoint: Name of the checkpoint.
        subject: Classes, users or prompt.
        count: Images of each.
        seed: First seed.
        generate: Button that starts a drawing.
        stop: Button that ends it.
        settings_a: EMA, solver, steps, guidance, interval and churn.
        compare: Whether there is a second drawing with settings B.
        column_b: Column of the settings B, hidden at first.
        settings_b: As ``settings_a``.
    """

    checkpoint: Any
    subject: Any
    count: Any
    seed: Any
    generate: Any
    stop: Any
    settings_a: list[Any]
    compare: Any
    column_b: Any
    settings_b: list[Any]

    @classmethod
    def build(cls, library: Library, model: Model) -> RequestFields:
        """Build the widgets in the present column.

        Args:
            library: The checkpoints.
            model: The first of them, whose own settings fill the fields.
        """
        shown, subject_words = default_request(model), model.application.subject
        checkpoint = gr.Dropdown(library.names, label="Checkpoint", elem_id="checkpoint")
        subject = gr.Textbox(
            shown.subject, label=subject_words.title, info=subject_words.example, lines=1, elem_id="subject"
        )
        with gr.Row():
            count = gr.Number(shown.count, label=subject_words.count_title, min_width=120, elem_id="count")
            seed = gr.Number(shown.seed, label="First seed", min_width=120, elem_id="seed")
        with gr.Row():
            generate = gr.Button("Generate", variant="primary", elem_id="generate")
            stop = gr.Button("Stop", min_width=80, scale=0, elem_id="stop")
        settings_a = _setting_fields(model, "a")
        compare = gr.Checkbox(False, label="Compare with settings B, same seeds", elem_id="compare")
        with gr.Column(visible=False) as column_b:
            settings_b = _setting_fields(model, "b")
        return cls(checkpoint, subject, count, seed, generate, stop, settings_a, compare, column_b, settings_b)

    @property
    def inputs(self) -> list[Any]:
        """Widgets whose values are the arguments of :func:`~jitflow.studio.answer.answer`."""
        first = [self.checkpoint, self.subject, self.count, self.seed, self.compare]
        return [*first, *self.settings_a, *self.settings_b]

    @property
    def of_checkpoint(self) -> list[Any]:
        """Widgets that :func:`updates_for` changes, behind the message."""
        return [self.subject, self.count, *self.settings_a, *self.settings_b]


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


def updates_for(library: Library, name: str) -> list[Any]:
    """Fill the fields with the settings of another checkpoint.

    Args:
        library: The checkpoints.
        name: The one that was chosen.

    Returns:
        The message, and an update for each of :attr:`RequestFields.of_checkpoint`.
    """
    try:
        note = library.changed(name)
        model = library.open(name)
    except JitflowError as error:
        return [message(str(error), refused=True), *[gr.skip()] * 14]
    shown, guided, subject_words = default_request(model), _is_guided(model), model.application.subject

    def settings() -> list[Any]:
        return [
            gr.update(choices=_averages(model), value=shown.ema),
            gr.update(value=shown.solver),
            gr.update(value=shown.steps),
            gr.update(value=shown.guidance, visible=guided),
            gr.update(value=shown.interval, visible=guided),
            gr.update(value=shown.churn, visible=not guided),
        ]

    subject = gr.update(value=shown.subject, label=subject_words.title, info=subject_words.example)
    count = gr.update(label=subject_words.count_title)
    return [message(f"{name} is loaded. {note}".rstrip()), subject, count, *settings(), *settings()]


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


def _is_guided(model: Model) -> bool:
    """Whether guidance makes sense; churn is shown where it does not."""
    return model.module.label_drop_prob > 0


def _averages(model: Model) -> list[tuple[str, int]]:
    return [(f"EMA {n}" if n else "no average", n) for n in available_averages(model.module)]
