"""The command ``jitflow text evaluate``: the options of a text model's evaluation, and its tables on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from jitflow.apps.text.evaluation_settings import RECOVERY_TIME, TextEvaluation
from jitflow.apps.text.judge import PLOT_NAME, REPORT_NAME, evaluate
from jitflow.apps.text.tables import print_report


def evaluate_command(
    checkpoint: str,
    data_path: str | None = None,
    val_path: str | None = None,
    out: str = "outputs/text_evaluation",
    num_texts: int = 64,
    num_samples: int = 64,
    seed: int = 0,
    ema: int | None = None,
    steps: int | None = None,
    solver: str | None = None,
    churn: float | None = None,
    temperature: float | None = None,
    recovery_time: float = RECOVERY_TIME,
    batch_size: int = 32,
    device: str | None = None,
) -> None:
    """Measure a model of text as colour: what it reads in noisy held-out text, what it recovers, what it writes.

    Prints tables and writes evaluation.json, accuracy.png and the samples.

    Args:
        checkpoint: File to load.
        data_path: The text it was trained on, of which the same part is held out; what the checkpoint records by
            default.
        val_path: Held-out text in place of that part.
        out: Folder of the results.
        num_texts: Held-out windows to read.
        num_samples: Texts to write; 0 for none.
        seed: Seed of the first noise; the others follow.
        ema: Average of the weights: 1 or 2; 0 for the weights themselves.
        steps: Steps of the solver; the model's own by default, as for all that follow.
        solver: euler, heun, midpoint or multistep.
        churn: How far sampling goes back towards the noise before each step, in steps; 0 is deterministic.
        temperature: Below 1 it writes what is likeliest.
        recovery_time: Time of the noisy texts that are sampled to the end.
        batch_size: Images at a time.
        device: cpu, cuda, cuda:1, mps; the fastest there is by default.
    """
    settings = TextEvaluation(
        num_texts,
        num_samples,
        seed,
        ema,
        recovery_time=recovery_time,
        steps=steps,
        solver=solver,
        churn=churn,
        temperature=temperature,
        batch_size=batch_size,
    )
    report = evaluate(checkpoint, data_path, out, settings, val_path=val_path, device=device)
    print_report(report)
    Console(stderr=True, soft_wrap=True).print(f"{Path(out) / REPORT_NAME}, {Path(out) / PLOT_NAME}", markup=False)
