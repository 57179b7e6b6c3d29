"""Documented names of the models; the code is in ``jitflow``."""

from jitflow.nets.text_jit import build_jit_model, load_pretrained_jit
from jitflow.training.user_dit import UserConditionedDiT

__all__ = ["UserConditionedDiT", "build_jit_model", "load_pretrained_jit"]
