"""From gradients to new weights: settings of each part, the optimizer, learning rates, skipped steps."""

from lightning_modules.optimization.parameter_groups import build_optimizer
from lightning_modules.optimization.rate_schedule import RateSchedule
from lightning_modules.optimization.settings import NonFinite, Optimization, TrainingPoint

__all__ = ["NonFinite", "Optimization", "RateSchedule", "TrainingPoint", "build_optimizer"]
