"""Documented names of the callbacks; the code is in ``jitflow.callbacks``."""

from jitflow.callbacks import (
    EMACallback,
    FIDEvaluationCallback,
    JiTModelCheckpoint,
    LearningRateSchedulerCallback,
    MetricLoggerCallback,
    create_default_callbacks,
)

__all__ = [
    "EMACallback",
    "FIDEvaluationCallback",
    "JiTModelCheckpoint",
    "LearningRateSchedulerCallback",
    "MetricLoggerCallback",
    "create_default_callbacks",
]
