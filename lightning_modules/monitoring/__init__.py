"""Callbacks that log training curves and pictures, and loggers of trackers; docs/monitoring.md explains every curve."""

from lightning_modules.monitoring.evaluation_callback import PeriodicEvaluation
from lightning_modules.monitoring.gradients import GradientMonitor
from lightning_modules.monitoring.inspection import VideoInspection
from lightning_modules.monitoring.memory_tokens import MemoryTokenMonitor
from lightning_modules.monitoring.mlflow_tracker import MlflowTracker
from lightning_modules.monitoring.profiler import StepProfiler
from lightning_modules.monitoring.progress import TrainingProgressBar
from lightning_modules.monitoring.throughput import ThroughputMonitor
from lightning_modules.monitoring.trackio_tracker import TrackioTracker
from lightning_modules.monitoring.wandb_tracker import WandbTracker

__all__ = [
    "GradientMonitor",
    "MemoryTokenMonitor",
    "MlflowTracker",
    "PeriodicEvaluation",
    "StepProfiler",
    "ThroughputMonitor",
    "TrackioTracker",
    "TrainingProgressBar",
    "VideoInspection",
    "WandbTracker",
]
