"""Documented names of the JiT module; the code is in ``jitflow.training``."""

from jitflow.apps.images.from_args import create_jit_lightning_module
from jitflow.apps.images.module import JiTLightningModule

__all__ = ["JiTLightningModule", "create_jit_lightning_module"]
