"""Documented names of the callbacks; the code is in ``jitflow.callbacks``."""

from jitflow.callbacks import EMACallback

__all__ = ["EMACallback"]
