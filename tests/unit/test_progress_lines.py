"""Log lines during a progress bar are lines of their own."""

import io
import logging

from rich.console import Console
from rich.progress import Progress

from jitflow.cli import StderrHandler


def test_a_log_line_stands_above_the_progress_bar(capfd):
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=80)
    logger = logging.Logger("jitflow.test")
    logger.addHandler(StderrHandler())
    logger.info("before")
    with Progress(console=console, auto_refresh=False) as bar:
        bar.add_task("training", total=2, completed=1)
        bar.refresh()
        logger.info("SIGINT: saving after this step")
        bar.refresh()
    logger.info("after")
    lines = terminal.getvalue().replace("\r", "\n").split("\n")
    (said,) = [line for line in lines if "saving" in line]
    assert "training" not in said
    assert capfd.readouterr().err == "before\nafter\n"
