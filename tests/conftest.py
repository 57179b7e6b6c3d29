"""What several folders of tests share."""

import os
import sys

import pytest

_GPU_RUN = "JITFLOW_TESTS_RUN_ON_GPU"


def _hide_cuda():
    """Hide CUDA devices from all tests but those of `-m gpu`: what they compare holds on the CPU only.

    As soon as this file is read, before torch looks for devices and Triton decides how it runs kernels (another
    conftest may import them); child processes inherit it.
    """
    if "-mgpu" in "".join(sys.argv):
        os.environ[_GPU_RUN] = "1"
    if _GPU_RUN not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["TRITON_INTERPRET"] = "1"


_hide_cuda()


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
