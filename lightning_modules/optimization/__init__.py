"""What turns gradients into new weights: settings part by part, the optimizer, rates by step, steps left out."""

from lightning_modules.optimization.groups import build_optimizer
from lightning_modules.optimization.rates import RateSchedule
from lightning_modules.optimization.settings import NonFinite, Optimization, TrainingPoint

__all__ = ["NonFinite", "Optimization", "RateSchedule", "TrainingPoint", "build_optimizer"]
