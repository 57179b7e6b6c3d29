"""What several folders of tests share."""

import gc
import multiprocessing
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


def pytest_collection_finish():
    """Collect garbage less often, and never again what was imported: collections took a tenth of the suite."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Folder for what is made once for all processes of the suite, each under a lock."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="module")
def forked_workers():
    """Let the processes that multiprocessing starts be forked from one that has imported torch."""
    from forked_python import forked_python

    multiprocessing.set_executable(forked_python())
    yield
    multiprocessing.set_executable(sys.executable)


@pytest.fixture(scope="session")
def shared_digits_classifier(shared):
    """Train each extractor of digits once: it takes four seconds, and always ends with the same weights.

    Return the function that really trains.
    """
    from filelock import FileLock
    from safetensors.torch import load_file, save_file

    from jitflow.encoders import digits
    from jitflow.evaluation import digits_features

    train = digits.train_weights

    def train_once(images, labels, recipe=digits.RECIPE):
        path = shared / f"digits_classifier_{recipe['num_classes']}.safetensors"
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                save_file(train(images, labels, recipe), path)
        return load_file(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "train_weights", train_once)
        patch.setattr(digits_features, "train_weights", train_once)
        yield train


@pytest.fixture(scope="session")
def quick_demo(shared, shared_digits_classifier):
    """Folder of the images demo's quick run, made once for all processes of the suite; to be copied, not changed."""
    from filelock import FileLock

    from jitflow.verbs.demo import run_demo

    folder = shared / "quick_demo" / "images"
    with FileLock(shared / "quick_demo.lock"):
        if not (folder / "metrics.json").exists():
            run_demo("images", folder, quick=True)
    return folder
