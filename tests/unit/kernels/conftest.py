"""Kernels on a CPU: Triton interprets them (tests/conftest.py), so their results are exact and slow."""

import pytest

pytest.importorskip("triton")


@pytest.fixture(autouse=True)
def kernels_on_the_cpu(monkeypatch):
    """Let the layers use the kernels on the CPU."""
    from jitflow.layers import fusion

    monkeypatch.setattr(fusion, "DEVICES", {"cpu"})
