"""Commands in broken environments, by ``tests/soak/environments.py``: one in most, and in the slow test all in all."""

import subprocess
import sys
from pathlib import Path

import pytest
from environments import ENVIRONMENTS, check, make_inputs

SOAK = Path(__file__).parents[1] / "soak"
# The full disk needs a file system of its own.
QUICK = [name for name, environment in ENVIRONMENTS.items() if name != "disk full" and not environment.restarted]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of processes")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("environments")
    # Another user has to reach it.
    for place in [folder, *folder.parents][:3]:
        place.chmod(0o755)
    return make_inputs(folder, spectrograms=False)


@pytest.mark.parametrize("name", QUICK)
def test_a_command_works_or_ends_in_one_line(name, given, tmp_path_factory):
    right, how = check("convert to safetensors", name, given, tmp_path_factory.mktemp("run"), mounts=False)
    assert right, how


@pytest.mark.slow
def test_every_command_works_or_ends_in_one_line(tmp_path):
    command = [sys.executable, str(SOAK / "environments.py"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
