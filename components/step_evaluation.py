"""The contract of evaluations that run while a model trains."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from components.model import VideoLanguageModel


class EvaluatedFigures(NamedTuple):
    """What an evaluation found."""

    scalars: dict[str, float]  # by name
    figures: dict[str, Any]  # matplotlib figures, by name


class StepEvaluation(ABC):
    """Evaluates a model that is being trained, for a callback.

    Every rank of a process group calls it with the same step. The ranks must make the same calls of the model, because
    weights may be sharded over them, and must find the same values.
    """

    @abstractmethod
    def __call__(self, model: VideoLanguageModel, step: int) -> EvaluatedFigures:
        """Evaluate.

        Args:
            model: In evaluation mode, without gradients; its ``training_facts`` name the frames that it reads.
            step: Optimizer steps so far.
        """
