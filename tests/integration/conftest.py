"""Let the tests of this folder import what they share by its bare name, as their scripts do."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A small corpus in a folder."""
    from tiny import write_corpus

    return write_corpus(tmp_path_factory.mktemp("text"))
