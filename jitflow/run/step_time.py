"""Time a training step on a few samples before the training, without changing anything of it."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from jitflow.callbacks.samples import undisturbed
from jitflow.data.base import SeededLoader
from jitflow.training.module import FlowModule


def time_batch(
    module: FlowModule,
    loader: SeededLoader,
    context: Callable[[], AbstractContextManager[object]],
    most: int,
    budget_sec: float = 10.0,
) -> tuple[float, int]:
    """Estimate the seconds of a forward and backward pass of a batch on the module's device, a CPU.

    One sample is timed, and as many as take ``budget_sec``; from there time grows with the samples. Weights, gradients,
    random generators and training modes stay as they are. Optimiser, validation and saving are not included.

    Args:
        module: The module, without gradients.
        loader: Loader of the training data; its position does not change.
        context: Context of a forward pass, such as autocast.
        most: Largest number of samples to time together.
        budget_sec: Seconds for the larger pass, about; 0 for one sample alone.

    Returns:
        The seconds, and the number of samples that were timed together.
    """
    batch_size = loader.batch_size or 1
    keys = list(itertools.islice(iter(loader.sampler), batch_size))

    def pass_sec(num: int) -> float:
        # Read as the loader reads, but in this process.
        batch = loader.collate_fn(loader.dataset.__getitems__(keys[:num]))  # type: ignore[attr-defined]
        started = time.monotonic()
        with context():
            outputs: Any = module.training_step(batch, 0)
        # An override may return only the loss.
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        loss.backward()
        return time.monotonic() - started

    with undisturbed(module), warnings.catch_warnings():
        # Without a trainer nothing is logged.
        warnings.filterwarnings("ignore", message=".*self.log.*")
        module.train()
        # The first pass is slower.
        pass_sec(1)
        one = pass_sec(1)
        num = max(1, min(len(keys), most, int(budget_sec / one)))
        many = pass_sec(num) if num > 1 else one
        module.zero_grad(set_to_none=True)
    each = max(0.0, many - one) / (num - 1) if num > 1 else one
    return many + each * (batch_size - num), num
