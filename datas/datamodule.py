"""Documented module path of the data modules; the code is in ``jitflow.data``."""

from jitflow.apps.images.data import JiTDataModule, create_jit_datamodule
from jitflow.data.crop import center_crop_arr

__all__ = ["JiTDataModule", "center_crop_arr", "create_jit_datamodule"]
