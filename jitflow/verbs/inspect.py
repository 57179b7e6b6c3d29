"""The commands ``info``, ``runs``, ``doctor`` and ``report``, which describe files, runs and the machine."""

from __future__ import annotations

import logging
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jitflow.errors import ConfigError, JitflowError, MissingFileError
from jitflow.io.plain_values import printable
from jitflow.verbs.commandline import run_command

log = logging.getLogger(__name__)

_COLOURS = {"ok": "green", "note": "yellow", "error": "red"}
_STATES = {"finished": "green", "unfinished": "yellow", "damaged": "red"}


def info(args: list[str]) -> None:
    """Describe a file, ``jitflow info``."""
    run_command("info", _info, args)


def runs(args: list[str]) -> None:
    """List training runs, ``jitflow runs``."""
    if args[:1] and not args[0].startswith("-"):
        args = [f"--folder={args[0]}", *args[1:]]
    run_command("runs", _runs, args)


def doctor(args: list[str]) -> None:
    """Check the installation and the device, ``jitflow doctor``."""
    run_command("doctor", _doctor, args)


def report(args: list[str]) -> None:
    """Write the HTML report of a run, ``jitflow report``."""
    run_command("report", _report, args)


def _info(file: str) -> None:
    """Describe a file or folder: checkpoint, latents, codec, statistics, record, run folder.

    Nothing in it is executed.

    Args:
        file: The file or folder.
    """
    from jitflow.inspect.info import describe_path

    found = describe_path(file)
    console = Console(markup=False, soft_wrap=True)
    console.print(Text.assemble((printable(str(found.path)), "bold"), f": {found.kind}"))
    width = max(map(len, found.facts), default=0)
    for name, value in found.facts.items():
        console.print(Text.assemble(f"  {printable(name):<{width}}  ", printable(value)))
    if found.commands:
        console.print("use it:")
        for command in found.commands:
            console.print(Text.assemble("  ", printable(command)))


def _runs(folder: str | None = None) -> None:
    """List the runs in a folder with state, best score, size, data, and the command to resume or use each.

    The data are named by the first digits of their fingerprint: runs with equal ones saw the same data.

    Args:
        folder: Folder to search; runs, outputs, output and run by default.
    """
    from jitflow.io.units import format_bytes
    from jitflow.run.describe import PLACES, describe_run, find_runs

    places = [folder] if folder is not None else [name for name in PLACES if Path(name).is_dir()]
    found = find_runs(places)
    if not found:
        searched = ", ".join(places or PLACES)
        raise MissingFileError(f"there are no runs in {searched}; make one with: jitflow demo images")
    described = []
    for number, path in enumerate(found, 1):
        try:
            described.append(describe_run(path))
        except (JitflowError, OSError) as error:
            # One run must not hide the others.
            if number == len(found) and not described:
                raise
            log.warning("%s is left out: %s", path, error)
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "state", "score", "size", "data", "changed"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "size" else "left")
    for run in described:
        table.add_row(
            printable(str(run.folder)),
            Text.assemble(
                (run.state, _STATES[run.state]),
                f" ({printable(run.detail)})" if run.detail else "",
                (f"; in use by {printable(run.in_use)}", "cyan") if run.in_use else "",
            ),
            f"{run.score[0]} {run.score[1]:.4g}" if run.score else "",
            format_bytes(run.num_bytes),
            printable(str(run.data.get("fingerprint", ""))[:8]),
            f"{run.changed:%Y-%m-%d %H:%M}",
        )
    # A pipe has no width; paths must not be wrapped there.
    longest = max(len(str(run.folder)) for run in described)
    console = Console(markup=False) if Console(markup=False).is_terminal else Console(markup=False, width=160 + longest)
    console.print(table)
    Console(markup=False, soft_wrap=True).print("\nnext:")
    for run in described:
        # A second process would be refused.
        if run.command and not run.in_use:
            Console(markup=False, soft_wrap=True).print(Text.assemble(f"  {printable(run.command)}"))


def _doctor(data: str | None = None) -> None:
    """Check installation, device, precision, threads, data, weights and disk; the exit status is 1 on an error.

    Nothing is changed or downloaded.

    Args:
        data: Folder of images to train on; the built-in digits by default.
    """
    from jitflow.inspect.doctor import examine

    findings = examine(data)
    console = Console(markup=False, soft_wrap=True)
    width = max(len(finding.topic) for finding in findings)
    for finding in findings:
        mark = (f"{finding.level:<5}", _COLOURS[finding.level])
        console.print(Text.assemble(mark, f"  {finding.topic:<{width}}  {finding.message}"))
        if finding.advice:
            console.print(Text.assemble(f"       {'':<{width}}  -> {finding.advice}"))
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        topics = ", ".join(dict.fromkeys(finding.topic for finding in errors))
        raise ConfigError(f"{len(errors)} of {len(findings)} checks failed ({topics}); see the advice above")


def _report(folder: str, out: str | None = None) -> None:
    """Write one HTML page about a run: scores, curves, pictures, settings, machine, and the command to resume.

    The file is self-contained: it opens offline and can be shared.

    Args:
        folder: The run's folder.
        out: File to write; report.html in the folder by default.
    """
    from jitflow.io.units import format_bytes
    from jitflow.run.report import write_report

    path = write_report(folder, out=out)
    Console(markup=False, soft_wrap=True).print(f"{path} ({format_bytes(path.stat().st_size)})")
