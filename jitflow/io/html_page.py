"""Self-contained HTML pages of scores: tables and embedded images, no other file, no script and no network access."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone

import jitflow

_STYLE = """
:root { color-scheme: light; --line: #d8dee4; --soft: #57606a; --accent: #0b63b5; }
* { box-sizing: border-box; }
body { font: 15px/1.55 system-ui, sans-serif; color: #1f2328; background: #fff; max-width: 72rem; margin: 0 auto;
  padding: 2rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .8rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
p.lead { color: var(--soft); margin: .3rem 0 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(28rem, 1fr)); gap: 1.2rem; }
figure { margin: 0; } figure.wide { grid-column: 1 / -1; }
figure img { max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 4px; display: block; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .3rem; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .22rem .8rem .22rem 0; border-bottom: 1px solid #eef1f4; vertical-align: top; text-align: left;
  overflow-wrap: anywhere; }
td:first-child { color: var(--soft); width: 19rem; }
pre { background: #f6f8fa; border: 1px solid var(--line); border-radius: 4px; padding: .8rem 1rem; margin: 0;
  white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, monospace; }
summary { cursor: pointer; color: var(--accent); } details { margin-top: .6rem; }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
"""


def html_page(title: str, body: str, *, style: str = "") -> str:
    """Return an HTML page of scores and images that loads nothing from outside.

    Args:
        title: Its title, plain text.
        body: Markup below the title.
        style: Further CSS.
    """
    # The policy applies even if some text of the results were interpreted as markup.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    now = datetime.now(timezone.utc).isoformat(sep=" ", timespec="minutes")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
{body}
<footer>Written {now} by jitflow {jitflow.__version__}. Everything on this page is inside this file.</footer>
</body>
</html>
"""


def html_section(title: str, body: str) -> str:
    """Return the markup of a section, such as of scores; empty without a body.

    Args:
        title: Its heading, plain text.
        body: Markup below it.
    """
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>\n" if body else ""


def html_table(rows: Iterable[Sequence[str]], headings: Sequence[str] = ()) -> str:
    """Return the markup of a table, such as of scores; empty without rows.

    Args:
        rows: Cells of each row, plain text.
        headings: Heading of each column; none by default.
    """
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>" if body else ""


def html_figure(data: bytes, caption: str, *, wide: bool = False) -> str:
    """Return the markup of a PNG or JPEG as a figure, the image inside it.

    Args:
        data: Content of the image file.
        caption: Its caption, plain text.
        wide: Whether the figure takes the whole width of the page.
    """
    mime = "image/jpeg" if data[:2] == b"\xff\xd8" else "image/png"
    text = html.escape(caption, quote=True)
    source = f"data:{mime};base64,{base64.b64encode(data).decode()}"
    mark = ' class="wide"' if wide else ""
    return f'<figure{mark}><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'
