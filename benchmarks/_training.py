"""One side of a training benchmark: a training step as it runs in training, and groups of steps to time.

The time of a group is taken between two synchronisations with many steps in between: a synchronisation after each step
would add the time that kernels take to start, which a training hides.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from _flops import forward_flops
from _timing import rounded, synchronise
from _turns import free_memory, together
from _variants import Case, build_on_meta, formulas_of
from torch import Tensor, nn
from torch.nn.functional import interpolate

from jitflow.apps.images.module import JiTLightningModule
from jitflow.callbacks import EMACallback
from jitflow.callbacks.utilisation import peak_flops

_MIB = 2**20
Step = Callable[[], Tensor]


def training_batch(case: Case, device: str) -> tuple[Tensor, Tensor]:
    """Draw smooth random images ``(B, 3, H, W)``, uint8, which a network can learn, and their labels ``(B,)``."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(case.batch, 3, 4, 4, generator=generator)
    images = interpolate(coarse, (case.img_size, case.img_size), mode="bilinear").mul(255).to(torch.uint8)
    return images.to(device), (torch.arange(case.batch) % case.num_classes).to(device)


def our_training_step(
    module: JiTLightningModule, images: Tensor, labels: Tensor, autocast: Any, variant: str = "eager"
) -> Step:
    """Build the training step of a trainer with EMACallback: loss, backward, AdamW, two averages.

    Args:
        module: The module.
        images: Shape ``(B, C, H, W)``, uint8.
        labels: Shape ``(B,)``.
        autocast: Context of the forward pass.
        variant: The way in which the module was built.

    Returns:
        The step, which returns its loss, detached and not yet read from the device.
    """
    optimiser = module.configure_optimizers()
    averages = EMACallback(module.ema_decay1, module.ema_decay2)
    trainer: Any = SimpleNamespace(global_step=0)
    averages.on_train_start(trainer, module)

    def step() -> Tensor:
        with autocast, formulas_of(variant):
            loss: Tensor = module.training_step((images, labels), 0)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        trainer.global_step += 1
        averages.on_train_batch_end(trainer, module, None, None, 0)
        return loss.detach()

    return step


class Side:
    """A training step, run twice: the first run compiles it, the second measures its peak memory.

    Args:
        module: The module that it trains.
        make_step: Function that builds the step of the module, with an optimiser and averages of its own; the step
            returns its loss.
        device: Its device.
        allocated_before: Bytes on the device before this side was built, see :func:`allocated`.
        prefix: Beginning of the names of its entries.

    Attributes:
        entries: Entries of a row: duration of the first step, compilation included, if this benchmark runs alone, and
            the peak memory of a step.
        losses: Loss of every timed step, on the device.
    """

    def __init__(
        self,
        module: nn.Module,
        make_step: Callable[[Any], Step],
        device: str,
        allocated_before: int = 0,
        prefix: str = "",
    ) -> None:
        self._module, self._make_step, self._device = module, make_step, device
        self._step = make_step(module)
        self.losses: list[Tensor] = []
        started = time.perf_counter()
        self._step()
        synchronise(device)
        taken = {f"{prefix}first_step_sec": round(time.perf_counter() - started, 2)}
        # Beside others it would tell of their work.
        self.entries = {**({} if together() else taken), **peak_mib(self._step, device, allocated_before, prefix)}

    def warm_up(self) -> None:
        """Run a step that does not count."""
        torch.manual_seed(0)
        self._step()

    def group(self, steps: int) -> Callable[[], None]:
        """Return a function that runs some steps; its n-th call has the same random numbers on every side."""
        num_calls = 0

        def run() -> None:
            nonlocal num_calls
            torch.manual_seed(num_calls)
            num_calls += 1
            self.losses += [self._step() for _ in range(steps)]

        return run

    def park(self) -> None:
        """Move the weights into the host's memory, and free everything else on the device."""
        del self._step
        self._module.zero_grad(set_to_none=True)
        self._module.to("cpu")
        free_memory()

    def resume(self) -> None:
        """Move the weights of a parked side back, and run a first step with a new optimiser and new averages."""
        self._module.to(self._device)
        self._step = self._make_step(self._module)
        self.warm_up()

    def free(self) -> None:
        """Free the network and its optimiser; times and losses stay."""
        del self._step, self._module
        free_memory()

    def mean_loss(self) -> float:
        """Mean loss of the timed steps."""
        return float(f"{torch.stack(self.losses).float().mean().item():.5g}")


def allocated(device: str) -> int:
    """Return the bytes that torch holds on the device now; 0 on a CPU."""
    return torch.cuda.memory_allocated() if device.startswith("cuda") else 0


def peak_mib(
    function: Callable[[], object], device: str, allocated_before: int = 0, prefix: str = ""
) -> dict[str, Any]:
    """Run a function and return its peak memory in MiB as an entry of a row; none on a CPU, where torch counts nothing.

    Args:
        function: The function, such as a training step; on a CPU it is not run.
        device: Its device.
        allocated_before: Bytes of the device that do not count, those of the other side.
        prefix: Beginning of the entry's name.
    """
    if not device.startswith("cuda"):
        return {}
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return {f"{prefix}peak_mib": round((torch.cuda.max_memory_allocated() - allocated_before) / _MIB)}


def describe_rate(case: Case, milliseconds: float, device: str, *, passes: float = 3) -> dict[str, Any]:
    """Describe the rate of a step or a sampling as entries of a row: images per second, operations, MFU.

    Args:
        case: The network and its batch.
        milliseconds: Duration for one batch.
        device: The device.
        passes: Forward passes of an image that its operations amount to; 3 for a training step.

    Returns:
        The entries; without ``mfu`` where the device's peak is unknown.
    """
    flops = passes * forward_flops(build_on_meta(case)) * case.batch / milliseconds * 1000
    found: dict[str, Any] = {
        "images_per_sec": rounded(1000 * case.batch / milliseconds),
        "gflops_per_sec": round(flops / 1e9, 1),
    }
    peak = peak_flops(torch.device(device))
    if peak is not None:
        found["mfu"] = round(flops / peak, 3)
    return found
