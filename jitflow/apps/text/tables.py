"""Terminal tables of a text model's evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jitflow.evaluation.report import score_table

_SHOWN_CHARS = 100


def print_report(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the tables of a text evaluation.

    Args:
        report: Report of :func:`jitflow.apps.text.judge.evaluate`.
        console: The console; standard output by default.
    """
    console = console or Console(markup=False)
    console.print(accuracy_table(report["held_out"]))
    recovery = report["recovery"]
    console.print(
        f"text recovery from t = {recovery['t']:g}: {recovery['text_recovery_accuracy']:.1%} of the characters, "
        f"{recovery['exact']:.1%} of {recovery['num_texts']} texts without an error"
    )
    if "samples" in report:
        console.print(samples_table(report["samples"]))
        console.print(copies_table(report["samples"]))
        console.print(copies_line(report["samples"]))
    console.print(score_table(report))


def accuracy_table(held_out: Mapping[str, Any]) -> Table:
    """Build the table of token accuracy and bits per byte at each time."""
    table = Table(title=f"tokens read from {held_out['num_texts']} noisy held-out texts")
    hinted = bool(held_out["token_accuracy_one_pass"])
    headings = ["t", "most frequent", "without context", *(["model, 1 pass"] if hinted else []), "model"]
    for heading in [*headings, "bits/byte", "without context"]:
        table.add_column(heading, justify="right")
    for key, accuracy in held_out["token_accuracy"].items():
        shares = [held_out["unigram_baseline"][key], held_out["context_free_baseline"][key]]
        shares += [*([held_out["token_accuracy_one_pass"][key]] if hinted else []), accuracy]
        bits = (held_out["bits_per_byte"][key], held_out["context_free_bits_per_byte"][key])
        table.add_row(key, *(f"{share:.1%}" for share in shares), *(f"{value:.2f}" for value in bits))
    return table


def samples_table(samples: Mapping[str, Any]) -> Table:
    """Build the table of sample scores beside real text."""
    distance = samples["code_distance"]
    table = Table(title=f"{samples['num_samples']} samples")
    for heading in ("", "samples", "held-out text", "shuffled"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("valid codes", f"{samples['valid_codes']:.1%}", "", "")
    table.add_row(
        "distance to the codes, mean (largest)", f"{distance['mean']:.3f} ({distance['largest']:.3f})", "", ""
    )
    perplexity = samples["ngram_perplexity"]
    values = (
        "-" if perplexity[name] is None else f"{perplexity[name]:.2f}" for name in ("samples", "held_out", "shuffled")
    )
    table.add_row(f"perplexity of a byte, {samples['ngram_order']}-grams", *values)
    for name, value in samples["samples"].items():
        table.add_row(name.replace("_", " "), f"{value:.3g}", f"{samples['held_out'][name]:.3g}", "")
    return table


def copies_line(samples: Mapping[str, Any]) -> str:
    """Return a line on the share of samples that copy the training text."""
    return (
        f"{samples['copies']:.1%} of the samples copy more than {samples['copy_length']:.0f} characters of the "
        "training text; of held-out texts 1% would"
    )


def copies_table(samples: Mapping[str, Any]) -> Table:
    """Build the table of the longest copies of the training text in samples."""
    table = Table()
    for heading in ("sample", "characters", "longest copy"):
        table.add_column(heading, justify="left" if heading == "longest copy" else "right")
    for copy in samples["longest_copies"]:
        table.add_row(str(copy["sample"]), str(copy["length"]), escape(repr(copy["text"])[1:-1][:_SHOWN_CHARS]))
    return table
