"""Callbacks that write training curves and pictures to TensorBoard; docs/monitoring.md explains every curve."""

from lightning_modules.monitoring.gradients import GradientMonitor
from lightning_modules.monitoring.inspection import VideoInspection
from lightning_modules.monitoring.memory_tokens import MemoryTokenMonitor
from lightning_modules.monitoring.profiler import StepProfiler
from lightning_modules.monitoring.progress import TrainingProgressBar
from lightning_modules.monitoring.throughput import ThroughputMonitor

__all__ = [
    "GradientMonitor",
    "MemoryTokenMonitor",
    "StepProfiler",
    "ThroughputMonitor",
    "TrainingProgressBar",
    "VideoInspection",
]
