"""The application ``images``."""

from __future__ import annotations

from jitflow.apps.images.module import JiTLightningModule
from jitflow.training.application import Application

IMAGES = Application(name="images", module=JiTLightningModule, recipes="jitflow.apps.images.recipes")
