"""Whether a training fits into the memory of its devices, by numbers that are counted by hand."""

import pytest
import torch

from jitflow.apps.images.module import JiTLightningModule
from jitflow.errors import ConfigError
from jitflow.run import memory_fit
from jitflow.run.memory import TrainingMemory
from jitflow.run.memory_fit import MemoryFit, check_state_fits, device_memory, fit_memory

GIB = 2**30
# 5 GiB of state, 1 of gradients; a step of n samples takes 2 + n GiB beside the state.
MEMORY = TrainingMemory(
    weights=1 * GIB, optimiser=2 * GIB, averages=2 * GIB, gradients=1 * GIB, fixed=2 * GIB, per_image=GIB
)
CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture(scope="module")
def module():
    return JiTLightningModule("JiT-N/4", img_size=8, num_classes=3)


def test_memory_is_named_by_device_and_in_all():
    one = MemoryFit(MEMORY, 4, "cpu", 1, 100 * GIB)
    assert (one.needed, one.largest_batch, one.warning()) == (11 * GIB, 83, None)
    assert "11.00 GiB at the peak of a step of 4; 100.0 GiB of cpu" in one.describe()
    two = MemoryFit(MEMORY, 4, "cpu", 2, 100 * GIB)
    assert "on each of 2 devices (22.00 GiB in all)" in two.describe()
    # Each has half: 45 GiB of 50 may be used.
    assert two.largest_batch == 38 and "a batch of up to 38" in two.describe()
    unknown = MemoryFit(MEMORY, None, "mps", 1, None)
    assert unknown.describe().endswith("GiB of state") and unknown.warning() is None


@pytest.mark.parametrize(
    ("fit", "said"),
    [
        (MemoryFit(MEMORY, 22, "cpu", 1, 20 * GIB), ["needs 29.0 GiB", "there are 20.0", "batch_size to 11"]),
        (MemoryFit(MEMORY, 4, "cpu", 2, 20 * GIB), ["needs 22.0 GiB", "batch_size to 2 or less"]),
        (MemoryFit(MEMORY, 1, "cpu", 2, 10 * GIB), ["fewer devices", "gradient_checkpointing"]),
        (MemoryFit(MEMORY, 1, "cuda", 1, 8 * GIB), ["gradient_checkpointing", "smaller network"]),
    ],
)
def test_what_does_not_fit_is_a_warning_with_what_would(fit, said):
    assert all(words in fit.warning() for words in said), fit.warning()


def test_a_pass_alone_needs_no_room_for_the_optimiser():
    # Of 10 GiB nine may be used: one for the weights, two for the pass, one for each sample.
    assert MemoryFit(MEMORY, 4, "cpu", 1, 10 * GIB).largest_pass == 6
    assert MemoryFit(MEMORY, 4, "cpu", 1, 3 * GIB).largest_pass == 0
    assert MemoryFit(MEMORY, 4, "cpu", 1, None).largest_pass is None


def test_processes_share_the_memory_of_a_machine(module, monkeypatch):
    monkeypatch.setattr(memory_fit, "device_memory", lambda device: 9 * GIB)
    fit = fit_memory(module, 8, CPU, num_devices=3)
    assert fit.capacity == 9 * GIB + fit.memory.weights and fit.num_devices == 3
    assert fit_memory(module, 8, META, num_devices=3).capacity == 27 * GIB


def test_what_is_kept_in_host_memory_is_not_on_the_device(module, monkeypatch):
    monkeypatch.setattr(module, "optimizer_on_cpu", True)
    on_device = fit_memory(module, 8, META, ema_on_cpu=True).memory
    assert (on_device.optimiser, on_device.averages) == (0, 0)
    on_cpu = fit_memory(module, 8, CPU, ema_on_cpu=True).memory
    assert on_cpu.optimiser > 0 and on_cpu.averages > 0


def test_the_state_of_all_processes_must_fit(module, caplog):
    caplog.set_level("INFO")
    check_state_fits(module, accelerator="cpu", num_devices=2)
    assert "on each of 2 devices" in caplog.text and "in all" in caplog.text
    with pytest.raises(ConfigError, match="fewer devices"):
        check_state_fits(module, accelerator="cpu", num_devices=10**6)


def test_there_is_memory_here():
    assert device_memory(CPU) > 2**20
    assert device_memory(META) is None
