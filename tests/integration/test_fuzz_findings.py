"""Every input that fuzzing once found to end in a foreign exception loads now, or is refused."""

import importlib
import logging
import random
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


@pytest.mark.filterwarnings("ignore")
def test_some_mutants_of_every_reader_load_or_are_refused(fuzz, targets):
    """A short run of ``tests/fuzz/fuzz_loaders.py``, whose counts are in docs/reliability.md."""
    logging.disable(logging.CRITICAL)
    mutations = importlib.import_module("mutations")
    try:
        for target in targets.values():
            for place in range(2):
                content = mutations.mutate(target.valid, random.Random(f"short {target.name} {place}"))
                assert fuzz.try_input(target, content) in ("loads", "refused"), (target.name, place)
            target.path.write_bytes(target.valid)
    finally:
        logging.disable(logging.NOTSET)


def test_every_kind_of_file_gets_its_share(fuzz, targets):
    numbers = fuzz.inputs_of(list(targets.values()), 21_000)
    kinds = {target.reader for target in targets.values()}
    assert {"torch files", "safetensors", "JSON", "YAML", "CSV", "npz", "pictures", "tokenizers"} <= kinds
    for kind in kinds:
        assert sum(numbers[target.name] for target in targets.values() if target.reader == kind) >= 1000
    assert sum(numbers.values()) >= 21_000


def test_what_is_valid_loads(fuzz, targets):
    for target in targets.values():
        target.path.write_bytes(target.valid)
        assert fuzz.try_input(target, target.valid) == "loads", target.name
