"""Lightning callbacks of every application."""

from jitflow.callbacks.checkpoint import JiTModelCheckpoint
from jitflow.callbacks.ema import EMACallback
from jitflow.callbacks.progress import TrainingProgress
from jitflow.callbacks.schedule import LearningRateSchedulerCallback

__all__ = ["EMACallback", "JiTModelCheckpoint", "LearningRateSchedulerCallback", "TrainingProgress"]
