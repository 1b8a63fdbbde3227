"""Computes the logged losses of an optimizer step from its accumulated batches."""

from itertools import zip_longest

import torch
from torch import Tensor

from components.model_output import ModelOutput


class StepLosses:
    """Sums the losses of the batches of an optimizer step, each divided by the number of batches."""

    def __init__(self) -> None:
        self._loss: Tensor | None = None
        self._penalty: Tensor | None = None
        self._readings: list[Tensor] = []

    def add(self, output: ModelOutput, batches_a_step: int) -> None:
        """Add the losses of one batch.

        A batch of shorter videos has fewer readings. Its memory does not change after its last reading, so its last
        loss is repeated for the missing ones. A short video in a batch with a longer one is treated alike.

        Args:
            output: What the model returned for the batch.
            batches_a_step: Number of batches of the optimizer step; every loss is divided by it.
        """
        readings = [value / batches_a_step for value in output.reading_losses]
        if self._loss is None:
            self._loss, self._readings = torch.zeros_like(output.loss), [torch.zeros_like(readings[0])]
        self._loss = self._loss + output.loss.detach() / batches_a_step
        if output.penalty is not None:
            penalty = output.penalty / batches_a_step
            self._penalty = penalty if self._penalty is None else self._penalty + penalty
        last_so_far, last = self._readings[-1], readings[-1]
        pairs = zip_longest(self._readings, readings)
        self._readings = [
            (last_so_far if one is None else one) + (last if other is None else other) for one, other in pairs
        ]

    def take(self) -> dict[str, Tensor]:
        """Give the step's values by their names in the log, and begin the next step."""
        assert self._loss is not None  # a batch was added
        losses = {"train/loss": self._loss}
        if self._penalty is not None:
            losses["train/bridge_penalty"] = self._penalty
        if len(self._readings) > 1:
            losses |= {f"train/loss_after_reading/{i}": value for i, value in enumerate(self._readings)}
        self._loss, self._penalty, self._readings = None, None, []
        return losses
