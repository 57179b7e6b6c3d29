"""Definition of the application ``images``: class-conditional images in pixel space."""

from __future__ import annotations

from jitflow.apps.images.module import JiTLightningModule
from jitflow.training.application import Application

IMAGES = Application(
    name="images",
    module=JiTLightningModule,
    condition="jitflow.apps.images.sampling:ask_for_images",
    present="jitflow.apps.images.sampling:present_images",
    headline=("fid", "class_agreement"),
    describe="jitflow.apps.images.describe",
    pictures={"trajectory.png": "One sample forming out of noise"},
    data_commands={name: f"jitflow.apps.images.commands:{name}" for name in ("prepare", "check")},
    look_at_data="jitflow.apps.images.describe:look_at_data",
    demo="jitflow.apps.images.demo:DEMO",
    further_demos={"onestep": "jitflow.apps.images.onestep_demo:DEMO"},
)
