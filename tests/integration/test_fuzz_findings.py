"""Every input that fuzzing once found to end in a foreign exception loads now, or is refused."""

import importlib
import logging
import re
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "fuzz"
FINDINGS = sorted(path for path in (FUZZ / "findings").iterdir() if path.is_file())


@pytest.fixture(scope="module")
def fuzz():
    with pytest.MonkeyPatch.context() as patch:
        # A script and the modules beside it.
        patch.syspath_prepend(FUZZ)
        yield importlib.import_module("fuzz_loaders")


@pytest.fixture(scope="module")
def targets(fuzz, tmp_path_factory):
    found = fuzz.make_targets(tmp_path_factory.mktemp("fuzz"))
    return {re.sub(r"\W+", "-", target.name): target for target in found}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: path.name)
def test_what_fuzzing_found(fuzz, targets, path):
    target = targets[path.name.rpartition("-")[0]]
    logging.disable(logging.CRITICAL)
    try:
        assert fuzz.try_input(target, path.read_bytes()) in ("loads", "refused")
    finally:
        logging.disable(logging.NOTSET)
        target.path.write_bytes(target.valid)


def test_what_is_valid_loads(fuzz, targets):
    for target in targets.values():
        target.path.write_bytes(target.valid)
        assert fuzz.try_input(target, target.valid) == "loads", target.name
