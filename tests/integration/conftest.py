"""Let the tests of this folder import what they share by its bare name, as their scripts do."""

import multiprocessing
import sys
from pathlib import Path

import pytest
from forked_python import forked_python

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A small corpus in a folder."""
    from tiny import write_corpus

    return write_corpus(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session", autouse=True)
def digits_classifier(shared_digits_classifier):
    """tests/unit/evaluation/test_digits_features.py trains it; here it is only used."""


@pytest.fixture(scope="module")
def forked_workers():
    """Let the processes that multiprocessing starts be forked from one that has imported torch."""
    multiprocessing.set_executable(forked_python())
    yield
    multiprocessing.set_executable(sys.executable)


@pytest.fixture(scope="module", autouse=True)
def no_reports(request):
    """Leave out the report after a training, which takes longer than one of seconds, but in files that look at it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("reports") is None:
            patch.setattr("jitflow.run.fit.write_final_report", lambda folder: None)
        yield
