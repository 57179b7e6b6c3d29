"""The command ``train``: a training by a recipe, and the report of how it went."""

from __future__ import annotations

from jitflow.run.report import write_final_report
from jitflow.verbs import lightning_cli


def train(args: list[str]) -> None:
    """Run ``jitflow train``."""
    folder = lightning_cli.train(args)
    if folder is not None:
        write_final_report(folder)
