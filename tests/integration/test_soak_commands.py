"""Killed commands end with all of their processes and go on; a short form of ``tests/soak/soak_commands.py``."""

import sys

import pytest
from soak_commands import COMMANDS, Soak, make_inputs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc")


def test_a_killed_preparation_leaves_no_process_and_ends_bit_equal(tmp_path):
    soak = Soak(tmp_path, 0, None)
    soak.soak("data prepare", make_inputs(tmp_path, pictures=40, spectrograms=0), 2)
    assert dict(soak.counts) == {"SIGTERM": 1, "SIGKILL": 1} and not soak.differing


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "data prepare"])
def test_a_killed_command_leaves_no_process_and_ends_bit_equal(tmp_path, name):
    soak = Soak(tmp_path, 1, None)
    soak.soak(name, make_inputs(tmp_path, pictures=100, spectrograms=12), 2)
    assert sum(soak.counts.values()) == 2 and not soak.differing
