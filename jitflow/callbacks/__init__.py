"""Lightning callbacks for all applications."""

from jitflow.callbacks.checkpoint import JiTModelCheckpoint
from jitflow.callbacks.defaults import create_default_callbacks
from jitflow.callbacks.ema import EMACallback
from jitflow.callbacks.ema_snapshots import EMASnapshotCallback
from jitflow.callbacks.evaluation import FIDEvaluationCallback
from jitflow.callbacks.guard import FiniteGuard, NonFiniteError
from jitflow.callbacks.metrics import MetricLoggerCallback
from jitflow.callbacks.progress import TrainingProgress
from jitflow.callbacks.samples import SampleGridCallback
from jitflow.callbacks.schedule import LearningRateSchedulerCallback
from jitflow.callbacks.watch import TrainingWatch

__all__ = [
    "EMACallback",
    "EMASnapshotCallback",
    "FIDEvaluationCallback",
    "FiniteGuard",
    "JiTModelCheckpoint",
    "LearningRateSchedulerCallback",
    "MetricLoggerCallback",
    "NonFiniteError",
    "SampleGridCallback",
    "TrainingProgress",
    "TrainingWatch",
    "create_default_callbacks",
]
