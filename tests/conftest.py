"""What several folders of tests share."""

import os

import pytest


def pytest_configure(config):
    """Hide CUDA devices from all tests but those with `-m gpu`: what they compare holds on the CPU only."""
    if config.option.markexpr != "gpu":
        # Before torch looks for devices, and Triton decides how it runs kernels; child processes inherit it.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def quick_demo(tmp_path_factory):
    """Folder of the images demo's quick run, made once for all processes of the suite; to be copied, not changed."""
    from filelock import FileLock

    from jitflow.verbs.demo import run_demo

    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = shared / "quick_demo" / "images"
    with FileLock(shared / "quick_demo.lock"):
        if not (folder / "metrics.json").exists():
            run_demo("images", folder, quick=True)
    return folder
