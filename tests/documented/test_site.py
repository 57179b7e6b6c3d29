"""The site of ``make docs``: built without a warning, and no page asks a foreign host for anything."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What a browser fetches by itself; a link that a reader may click is not.
FETCHED = re.compile(r"<(?:script|img|link|iframe|source|video)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")


def test_the_site_builds_strictly_and_stands_alone(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(ROOT / "mkdocs.yml")]
    done = subprocess.run([*command, "-d", str(tmp_path)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted(tmp_path.rglob("*.html"))
    sources = sorted(p.stem for p in (ROOT / "docs").glob("*.md"))
    assert {p.stem for p in pages} >= set(sources)
    for path in pages:
        assert not FETCHED.findall(path.read_text(encoding="utf-8")), path.name
    reference = {p.stem: p.read_text(encoding="utf-8") for p in pages if p.stem.startswith("reference_")}
    for page, name in (("core", "core.path.interpolate"), ("training", "callbacks.EMACallback")):
        assert f'id="jitflow.{name}"' in reference[f"reference_{page}"], name
    assert not [page for page, text in reference.items() if re.search(r":(?:func|class|meth|mod):<", text)]
    for path in tmp_path.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", path.read_text(encoding="utf-8")), path.name


def test_every_page_is_in_the_menu_and_every_figure_is_used():
    menu = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(menu) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))
    texts = "".join(p.read_text(encoding="utf-8") for p in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
    unused = [p.name for p in (ROOT / "docs" / "images").iterdir() if p.name not in texts]
    assert not unused


# Figures that a command draws; all others are drawn by a script that names them.
DRAWN_BY_COMMANDS = {
    "digits_samples.png": "jitflow demo images",
    "digits_trajectory.png": "jitflow demo images",
    "digits_matrix.png": "jitflow demo images",
    "digits_sweep.png": "jitflow sweep",
    "onestep_samples.png": "jitflow demo onestep",
    "microdoppler_real_and_generated.png": "jitflow demo microdoppler",
    "text_as_colour.png": "jitflow demo text",
    "text_accuracy.png": "jitflow demo text",
}


def test_every_figure_is_made_by_code_in_the_repository():
    scripts = [*(ROOT / "docs").glob("make_*.py"), *(ROOT / "benchmarks").glob("*.py")]
    code = "".join(p.read_text(encoding="utf-8") for p in scripts)
    drawn = {p.name for p in (ROOT / "docs" / "images").iterdir()}
    drawn = {name for name in drawn if not name.startswith("studio_")}  # screenshots
    assert not [name for name in drawn - DRAWN_BY_COMMANDS.keys() if name not in code]


def test_readers_see_what_is_not_run_and_no_roles():
    hooks = runpy.run_path(str(ROOT / "docs" / "hooks.py"))
    shown = hooks["on_page_markdown"]("<!-- not run: needs a GPU -->\n```bash\n")
    assert shown == "*Not run by the tests: needs a GPU.*\n\n```bash\n"
    assert hooks["on_page_content"]("see :func:<code>a.b</code>, :x:<code>c</code>") == (
        "see <code>a.b</code>, :x:<code>c</code>"
    )


def test_the_rule_finds_what_a_browser_fetches():
    assert FETCHED.findall('<script async src="https://x.org/a.js">') == ["https://x.org/a.js"]
    assert FETCHED.findall("<link rel=stylesheet href=//x.org/a.css>") == ["//x.org/a.css"]
    assert not FETCHED.findall('<a href="https://arxiv.org/abs/2511.13720">')
