"""Kernels on a CPU: Triton interprets them, so their results are exact and slow."""

import pytest

triton = pytest.importorskip("triton")


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Let Triton interpret the kernels that a test imports first, and let the layers use them on the CPU."""
    from jitflow.layers import fusion

    monkeypatch.setattr(triton.knobs.runtime, "interpret", True)
    monkeypatch.setattr(fusion, "DEVICES", {"cpu"})
