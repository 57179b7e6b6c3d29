"""Let the tests of this folder import what they share by its bare name, as their scripts do."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
# Of some soaks a short form runs here.
sys.path.append(str(Path(__file__).parents[1] / "soak"))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A small corpus in a folder."""
    from tiny import write_corpus

    return write_corpus(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session", autouse=True)
def digits_classifier(shared_digits_classifier):
    """tests/unit/evaluation/test_digits_features.py trains it anew; here it is only used."""


@pytest.fixture(scope="module", autouse=True)
def no_reports(request):
    """Leave out the report after a training, which takes longer than one of seconds, but in files that look at it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("reports") is None:
            patch.setattr("jitflow.run.fit.write_final_report", lambda folder: None)
        yield
