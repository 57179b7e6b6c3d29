"""The application ``microdoppler``."""

from __future__ import annotations

from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.training.application import Application

MICRODOPPLER = Application(name="microdoppler", module=UserConditionedDiT, recipes="jitflow.apps.microdoppler.recipes")
