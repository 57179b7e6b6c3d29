"""Documented module path of the data modules; the code is in ``jitflow.data``."""

from jitflow.data.crop import center_crop_arr
from jitflow.data.image_folder import JiTDataModule, create_jit_datamodule

__all__ = ["JiTDataModule", "center_crop_arr", "create_jit_datamodule"]
