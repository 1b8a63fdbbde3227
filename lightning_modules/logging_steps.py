"""After which optimizer steps Lightning writes what was logged."""

from typing import Any

from lightning.pytorch import Trainer


def logging_interval(trainer: Trainer) -> int:
    """Optimizer steps from one log to the next; 0 for never."""
    settings: Any = trainer  # Lightning sets log_every_n_steps where a type checker does not see it
    return int(settings.log_every_n_steps)


def logs_after_this_step(trainer: Trainer) -> bool:
    """Whether the optimizer step that is under way is one after which Lightning writes what was logged."""
    every = logging_interval(trainer)
    return bool(every) and (trainer.global_step + 1) % every == 0
