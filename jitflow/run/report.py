"""Write ``report.html``: one self-contained page about a run, without other files or network access."""

from __future__ import annotations

import html
import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jitflow
from jitflow.applications import get_application
from jitflow.checkpoint.state import errors_of_damage
from jitflow.errors import JitflowError
from jitflow.io.files import read_json, writable_folder, write_text
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
_STYLE = """
:root { color-scheme: light; --line: #d8dee4; --soft: #57606a; --accent: #0b63b5; }
* { box-sizing: border-box; }
body { font: 15px/1.55 system-ui, sans-serif; color: #1f2328; background: #fff; max-width: 72rem; margin: 0 auto;
  padding: 2rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .8rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
p.lead { color: var(--soft); margin: .3rem 0 0; }
.state { display: inline-block; padding: .05rem .6rem; border-radius: 1rem; color: #fff; background: #9a6700; }
.state.finished { background: #1a7f37; } .state.damaged { background: #cf222e; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(28rem, 1fr)); gap: 1.2rem; }
figure { margin: 0; } figure.wide { grid-column: 1 / -1; }
figure img { max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 4px; display: block; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .3rem; }
table { border-collapse: collapse; width: 100%; }
td { padding: .22rem .8rem .22rem 0; border-bottom: 1px solid #eef1f4; vertical-align: top; overflow-wrap: anywhere; }
td:first-child { color: var(--soft); width: 19rem; }
pre { background: #f6f8fa; border: 1px solid var(--line); border-radius: 4px; padding: .8rem 1rem; margin: 0;
  white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, monospace; }
summary { cursor: pointer; color: var(--accent); } details { margin-top: .6rem; }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
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
    title = html.escape(run.folder.resolve().name)
    curves = read_curves(run.training)
    if run.history and "train/loss" not in curves:
        curves["train/loss"] = run.history
    sections = [
        _section("Scores", _score_tables(run)),
        _section("Curves", curve_figures(curves)),
        _section("Samples over the training", training_pictures(run.folder, run.training)),
        _section("Pictures", _picture_figures(run)),
        _section("Texts", _texts(run)),
        _section("Commands", _commands(run)),
        _section("Data", _table(_flat(run.data))),
        _section("Settings", _table(_flat(run.settings))),
        _section("Environment", _table(_flat(run.environment))),
        _section("Files", _table(_files(run))),
    ]
    # The policy applies even if some text of the run were interpreted as markup.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    now = datetime.now(timezone.utc).isoformat(sep=" ", timespec="minutes")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}{SLIDER_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
{_lead(run)}
{"".join(sections)}
<footer>Written {now} by jitflow {jitflow.__version__}. Everything on this page is inside this file.</footer>
</body>
</html>
"""


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


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>\n" if body else ""


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
            except (JitflowError, OSError) as error:
                tables.append(f"<p>{html.escape(str(error))}</p>")
                continue
            numbers = {k: v for k, v in _flat(content).items() if not k.startswith("settings.")}
            if tables:
                tables.append(_folded(str(path.relative_to(run.folder)), numbers))
                continue
            # A table of every value at every time would hide the summary values.
            inner = {name: value for name, value in numbers.items() if "." in name}
            tables.append(_table({name: value for name, value in numbers.items() if name not in inner}))
            tables += [_folded(f"{len(inner)} more numbers", inner)] if inner else []
    return "".join(tables)


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
    body = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>" for k, v in shown)
    more = f"<tr><td></td><td>and {len(rows) - _MAX_ROWS} more</td></tr>" if len(rows) > _MAX_ROWS else ""
    return f"<table>{body}{more}</table>"


def _folded(title: str, rows: Mapping[str, str]) -> str:
    return f"<details><summary>{html.escape(title)}</summary>{_table(rows)}</details>"


def _readable_name(name: str) -> str:
    return name.replace("_", " ")
