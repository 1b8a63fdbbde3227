"""Learning rates by optimizer step: frozen, warm-up, cosine."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Trainer

from lightning_modules.optimization.parameter_groups import part_of_group
from lightning_modules.optimization.settings import Optimization, TrainingPoint


class RateSchedule:
    """The rate of every part at every optimizer step, a pure function of the config and the step.

    It has no state: a resumed run, under whichever strategy, has the rates that the uninterrupted one would have had.
    A step that is left out counts like any other.

    Args:
        settings: Rates, warm-up, final share and when parts begin.
        num_steps: Optimizer steps of the run, from its start to its end.
        steps_per_epoch: Tells how many optimizer steps a pass over the data takes; asked only where a part begins at
            an epoch.

    Raises:
        ValueError: ``num_steps`` is not positive (the schedule would have no end to aim at), or a part would begin
            after the run's end and never train.
    """

    def __init__(self, settings: Optimization, num_steps: int, steps_per_epoch: Callable[[], float]) -> None:
        if num_steps < 1:
            raise ValueError(
                f"the schedule needs the number of optimizer steps, got {num_steps}; set trainer.max_steps"
            )
        self.settings = settings
        self.num_steps = num_steps
        self.first_steps = {part: self._step_at(at, steps_per_epoch) for part, at in settings.frozen_until.items()}
        for part, first in self.first_steps.items():
            if first >= num_steps:
                raise ValueError(
                    f"model.optimization.frozen_until has '{part}' begin at step {first}, but the run ends after "
                    f"{num_steps} steps, so it would never train; freeze the part itself, or begin earlier"
                )

    def is_frozen(self, part: str, step: int) -> bool:
        """Whether a part does not train yet in the step after ``step`` steps."""
        return step < self.first_steps.get(part, 0)

    def share(self, part: str, step: int) -> float:
        """Share of its peak rate that a part has in the step after ``step`` steps; zero while it is frozen."""
        if self.is_frozen(part, step):
            return 0.0
        first = self.first_steps.get(part, 0)
        step, num_steps = step - first, self.num_steps - first
        warmup = max(1, round(num_steps * self.settings.warmup_fraction))
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
        cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.settings.final_fraction + (1.0 - self.settings.final_fraction) * cosine

    def apply(self, groups: Sequence[dict[str, Any]], step: int) -> None:
        """Set the rates of an optimizer's groups for the step after ``step`` steps."""
        for group in groups:
            part = part_of_group(group)
            group["lr"] = self.settings.learning_rates[part] * self.share(part, step)

    def _step_at(self, point: TrainingPoint, steps_per_epoch: Callable[[], float]) -> int:
        if point.step is not None:
            return point.step
        if point.fraction is not None:
            return round(point.fraction * self.num_steps)
        assert point.epoch is not None  # the settings have checked that one of the three is given
        return round(point.epoch * steps_per_epoch())


def steps_per_epoch(trainer: Trainer) -> float:
    """Optimizer steps of one pass over the training data.

    Args:
        trainer: A trainer whose training loader is set up. The datamodule's ``batches_per_pass`` is asked where it has
            that, for a run may be one epoch of many passes to Lightning; the trainer's own count otherwise.

    Raises:
        ValueError: A pass has no known length, or fills no batch.
    """
    datamodule: Any = getattr(trainer, "datamodule", None)
    batches = getattr(datamodule, "batches_per_pass", trainer.num_training_batches)
    if not 0 < batches < math.inf:
        raise ValueError(
            f"a pass over the training data has {batches} batches, so no part can begin at an epoch; give its "
            "model.optimization.frozen_until as a step or a fraction"
        )
    return float(batches) / trainer.accumulate_grad_batches
