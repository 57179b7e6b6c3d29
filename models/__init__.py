"""Documented names of the models; the code is in ``jitflow``."""

from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.apps.text.network import build_jit_model, load_pretrained_jit

__all__ = ["UserConditionedDiT", "build_jit_model", "load_pretrained_jit"]
