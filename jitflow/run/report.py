"""Write ``report.html``: one self-contained page about a run, without other files or network access."""

from __future__ import annotations

import html
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jitflow.applications import get_application
from jitflow.checkpoint.state import errors_of_damage
from jitflow.errors import JitflowError
from jitflow.evaluation.report import interval_heading, is_report, score_rows
from jitflow.io.files import read_json, writable_folder, write_text
from jitflow.io.html_page import html_page, html_section, html_table
from jitflow.io.units import format_bytes
from jitflow.run.curves import read_curves
from jitflow.run.describe import Run, describe_run
from jitflow.run.report_curves import curve_figures
from jitflow.run.report_figures import figure_of_file
from jitflow.run.report_slider import STYLE as SLIDER_STYLE
from jitflow.run.report_slider import training_pictures

log = logging.getLogger(__name__)
REPORT_NAME = "report.html"
_SCORE_FILES = ("metrics.json", "evaluation/evaluation.json", "evaluation/report.json", "report.json")
# Pictures of any run, shown before those of its application; a pattern may match several.
_PICTURES = {
    "samples.png": "Samples",
    "samples/grid.png": "Samples",
    "evaluation/*.png": "Evaluation",
}
_MAX_TEXT_CHARS = 6000
_MAX_ROWS = 80
# Entries of an evaluation's report that its table of scores shows.
_IN_TABLE = ("metrics.", "intervals.", "trained_on")
_STYLE = """
.state { display: inline-block; padding: .05rem .6rem; border-radius: 1rem; color: #fff; background: #9a6700; }
.state.finished { background: #1a7f37; } .state.damaged { background: #cf222e; }
"""


def write_report(folder: str | Path, *, out: str | Path | None = None) -> Path:
    """Write a self-contained HTML report of a run.

    Args:
        folder: The run's folder.
        out: Path of the report; ``report.html`` in the folder by default.

    Returns:
        The file.

    Raises:
        MissingFileError: If there is no such folder.
        ConfigError: If it is not the folder of a run.
        CheckpointError: If a file in it is damaged in a way that no report can show.
    """
    run = describe_run(folder)
    path = Path(out) if out is not None else run.folder / REPORT_NAME
    writable_folder(path.parent)
    with errors_of_damage(run.folder):
        page = render(run)
    write_text(path, page)
    return path


def write_final_report(folder: str | Path) -> None:
    """Write the report of a finished training; a failure is only logged, since the training is done.

    Args:
        folder: The run's folder.
    """
    try:
        path = write_report(folder)
    # The training has its result, whatever is wrong with the report.
    except Exception as error:  # noqa: BLE001
        log.warning("no report was written: %s", " ".join(f"{type(error).__name__}: {error}".split()))
    else:
        log.info("report: %s", path)


def render(run: Run) -> str:
    """Return the HTML report of a run; it loads no external resources."""
    curves = read_curves(run.training)
    if run.history and "train/loss" not in curves:
        curves["train/loss"] = run.history
    sections = [
        html_section("Scores", _score_tables(run)),
        html_section("Curves", curve_figures(curves)),
        html_section("Samples over the training", training_pictures(run.folder, run.training)),
        html_section("Pictures", _picture_figures(run)),
        html_section("Texts", _texts(run)),
        html_section("Commands", _commands(run)),
        html_section("Data", _table(_flat(run.data))),
        html_section("Settings", _table(_flat(run.settings))),
        html_section("Environment", _table(_flat(run.environment))),
        html_section("Files", _table(_files(run))),
    ]
    return html_page(run.folder.resolve().name, _lead(run) + "".join(sections), style=_STYLE + SLIDER_STYLE)


def _lead(run: Run) -> str:
    parts = [part for part in (run.application, run.network) if part]
    if run.score:
        parts.append(f"{_readable_name(run.score[0])} {run.score[1]:.4g}")
    parts.append(format_bytes(run.num_bytes))
    facts = " · ".join(html.escape(part) for part in parts)
    detail = f" {html.escape(run.detail)}" if run.detail else ""
    note = f'<p class="lead">{html.escape(run.note)}</p>' if run.note else ""
    state = f'<p class="lead"><span class="state {run.state}">{run.state}</span>{detail}</p>'
    return f'{state}<p class="lead">{facts}</p>{note}'


def _commands(run: Run) -> str:
    commands = {"draw samples": run.command if run.command != run.continuation else "", "resume": run.continuation}
    blocks = [f"# {purpose}\n{command}" for purpose, command in commands.items() if command]
    return f"<pre>{html.escape(chr(10).join(blocks))}</pre>" if blocks else ""


def _score_tables(run: Run) -> str:
    tables = []
    for name in _SCORE_FILES:
        for place in dict.fromkeys((run.folder, run.training)):
            path = place / name
            if not path.is_file():
                continue
            try:
                content = read_json(path)
                scores = _scores_of(content) if is_report(content) else ""
            except (JitflowError, OSError) as error:
                tables.append(f"<p>{html.escape(str(error))}</p>")
                continue
            tables += [scores] if scores else []
            numbers = {k: v for k, v in _flat(content).items() if not k.startswith(("settings.", *_IN_TABLE))}
            if tables:
                tables.append(_folded(str(path.relative_to(run.folder)), numbers))
                continue
            # A table of every value at every time would hide the summary values.
            inner = {name: value for name, value in numbers.items() if "." in name}
            tables.append(_table({name: value for name, value in numbers.items() if name not in inner}))
            tables += [_folded(f"{len(inner)} more numbers", inner)] if inner else []
    return "".join(tables)


def _scores_of(report: Mapping[str, Any]) -> str:
    return html_table(score_rows(report), ("score", "value", interval_heading(report), ""))


def _picture_figures(run: Run) -> str:
    figures = []
    own = get_application(run.application).pictures if run.application else {}
    for pattern, caption in {**_PICTURES, **own}.items():
        for path in sorted(run.folder.glob(pattern)):
            words = caption if path.name == Path(pattern).name else f"{caption}: {_readable_name(path.stem)}"
            figures.append(figure_of_file(path, words))
    return f'<div class="figures">{"".join(figures)}</div>' if figures else ""


def _texts(run: Run) -> str:
    for name in get_application(run.application).texts if run.application else ():
        path = run.folder / name
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            rest = f"\n... (the rest is in {name})" if len(text) > _MAX_TEXT_CHARS else ""
            return f"<pre>{html.escape(text[:_MAX_TEXT_CHARS] + rest)}</pre>"
    return ""


def _files(run: Run) -> dict[str, str]:
    """List the content of the run's folder with sizes: files individually, sub-folders as a whole."""
    listed = {}
    for path in sorted(run.folder.iterdir()):
        if path.is_dir():
            inside = [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
            size = format_bytes(sum(p.stat().st_size for p in inside))
            listed[f"{path.name}/"] = f"{len(inside)} files, {size}"
        elif path.name != REPORT_NAME:
            listed[path.name] = format_bytes(path.stat().st_size)
    return listed


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Flatten nested settings or scores to table rows ``outer.inner``; long lists are truncated, numbers shortened."""
    if isinstance(value, Mapping):
        rows: dict[str, str] = {}
        for name, inner in value.items():
            rows.update(_flat(inner, f"{prefix}.{name}" if prefix else str(name)))
        return rows
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return {prefix: f"{len(value)} entries"}
    return {prefix: _shown(value)} if prefix else {}


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        shown = ", ".join(_shown(v) for v in value[:12])
        return shown + (f", ... ({len(value)} in total)" if len(value) > 12 else "")
    return str(value)


def _table(rows: Mapping[str, str]) -> str:
    if not rows:
        return ""
    shown: Iterable[tuple[str, str]] = list(rows.items())[:_MAX_ROWS]
    more = [("", f"and {len(rows) - _MAX_ROWS} more")] if len(rows) > _MAX_ROWS else []
    return html_table([*shown, *more])


def _folded(title: str, rows: Mapping[str, str]) -> str:
    return f"<details><summary>{html.escape(title)}</summary>{_table(rows)}</details>"


def _readable_name(name: str) -> str:
    return name.replace("_", " ")
