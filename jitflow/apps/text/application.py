"""The application ``text``."""

from __future__ import annotations

from jitflow.apps.text.module import TextLightningModule
from jitflow.training.application import Application

TEXT = Application(name="text", module=TextLightningModule, recipes="jitflow.apps.text.recipes")
