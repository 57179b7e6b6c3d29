"""Kernels on a CPU: Triton interprets them (tests/conftest.py), so their results are exact and slow."""

import pytest

pytest.importorskip("triton")


@pytest.fixture(autouse=True)
def on_the_cpu():
    """Let the layers use the kernels on the CPU."""
    from jitflow.layers.fusion import kernels_on

    with kernels_on("cpu"):
        yield
