"""Run the fast tests with the lowest versions of the small packages that pyproject.toml allows.

    python tests/lowest_versions.py                     the tests below
    python tests/lowest_versions.py tests/unit/io ...   others

The packages are installed into a folder that lies before all others on the path; torch, torchvision and lightning,
which are large, stay as they are. Only a bound that works may stand in pyproject.toml.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LARGE = ("torch", "torchvision", "lightning")
TESTS = (
    "tests/unit/test_files.py",
    "tests/unit/test_array_file.py",
    "tests/unit/test_hostile_files.py",
    "tests/unit/test_option_errors.py",
    "tests/unit/checkpoint",
    "tests/unit/run",
    "tests/integration/test_cli.py",
)


def lowest(requirement: Requirement) -> str:
    """Pin a requirement to its lower bound, such as ``rich==13.9``.

    Args:
        requirement: As in pyproject.toml.
    """
    bounds = [spec.version for spec in requirement.specifier if spec.operator in (">=", "~=", "==")]
    if len(bounds) != 1:
        raise ValueError(f"{requirement} has no lower bound; give it one")
    return f"{requirement.name}=={bounds[0]}"


def small_requirements() -> list[Requirement]:
    """Read the requirements of the package itself, without the large ones."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [r for r in map(Requirement, project["dependencies"]) if r.name not in LARGE]


def main(tests: list[str]) -> int:
    """Install and test; return pytest's exit status.

    Args:
        tests: What to run; the fast tests if nothing is named.
    """
    with tempfile.TemporaryDirectory() as folder:
        pinned = [lowest(requirement) for requirement in small_requirements()]
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*install, "--target", folder, *pinned], check=True)
        path = os.pathsep.join([folder, str(ROOT)])
        run = [sys.executable, "-m", "pytest", "-q", *(tests or TESTS)]
        return subprocess.run(run, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
