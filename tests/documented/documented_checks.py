"""What must be true after a block has run: a registry of functions by a block's number, and what they share."""

from __future__ import annotations

import torch

from jitflow.core.seeding import use_seeds

CHECKS = {}


def check(name):
    """Register the check of a block."""

    def register(function):
        assert name not in CHECKS, f"two checks of {name}"
        CHECKS[name] = function
        return function

    return register


def samples(module, labels=(0, 3), **given):
    """Samples whose seeds are the numbers from 0."""
    with use_seeds(range(len(labels))):
        return module.generate(torch.tensor(labels, device=module.device), **given)
