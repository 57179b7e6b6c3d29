"""The site of ``make docs``: built without a warning, and no page asks a foreign host for anything."""

import re
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
    for path in tmp_path.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", path.read_text(encoding="utf-8")), path.name


def test_every_page_is_in_the_menu_and_every_figure_is_used():
    menu = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(menu) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))
    texts = "".join(p.read_text(encoding="utf-8") for p in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
    unused = [p.name for p in (ROOT / "docs" / "images").iterdir() if p.name not in texts]
    assert not unused


def test_the_rule_finds_what_a_browser_fetches():
    assert FETCHED.findall('<script async src="https://x.org/a.js">') == ["https://x.org/a.js"]
    assert FETCHED.findall("<link rel=stylesheet href=//x.org/a.css>") == ["//x.org/a.css"]
    assert not FETCHED.findall('<a href="https://arxiv.org/abs/2511.13720">')
