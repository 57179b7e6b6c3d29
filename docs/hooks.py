"""Hooks of mkdocs for the docs site."""

import re

_ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):(?=<code>)")
_NOT_RUN = re.compile(r"<!-- not run: ([^\n]+) -->")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Show readers of the site which blocks are not executed by the tests, and why."""
    return _NOT_RUN.sub(r"*Not run by the tests: \1.*\n", markdown)


def on_page_content(html: str, **_: object) -> str:
    """Remove Sphinx's roles from docstrings, which this site does not support."""
    return _ROLE.sub("", html)
