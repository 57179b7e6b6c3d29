"""Kernels on a CPU: Triton interprets them (tests/conftest.py), so their results are exact and slow."""

import pytest


@pytest.fixture(autouse=True)
def on_the_cpu():
    """Let the layers use the kernels on the CPU."""
    # Not before the tests are configured: Triton decides at its import how it runs kernels.
    pytest.importorskip("triton")
    from jitflow.layers.fusion import kernels_on

    with kernels_on("cpu"):
        yield
