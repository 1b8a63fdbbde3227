"""After which optimizer steps Lightning writes what was logged."""

from typing import Any

from lightning.pytorch import Trainer


def logging_interval(trainer: Trainer) -> int:
    """Optimizer steps between two writes of the log; 0 = never."""
    settings: Any = trainer  # Lightning sets log_every_n_steps where a type checker does not see it
    return int(settings.log_every_n_steps)


def logs_after_this_step(trainer: Trainer) -> bool:
    """Whether Lightning writes the logged values after the current optimizer step."""
    every = logging_interval(trainer)
    return bool(every) and (trainer.global_step + 1) % every == 0
