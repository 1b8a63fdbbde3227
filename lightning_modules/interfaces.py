"""Contracts of this package: what callbacks, evaluation and strategies may ask of the module that is trained.

``lightning_modules.video_language.VideoLanguageModule`` fulfils them and imports the callbacks. Callbacks import this
file only, so no import leads back.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

from lightning.pytorch import LightningModule
from torch import Tensor

from components.interfaces import VideoTextBatch
from components.model import VideoLanguageModel


class EvaluatedTurn(Protocol):
    """A question of a conversation with its reference answer."""

    @property
    def question(self) -> str:
        """The question as asked."""

    @property
    def answer(self) -> str:
        """The reference answer."""


class EvaluatedQuestion(Protocol):
    """What evaluation reads of a conversation; ``datamodules.batch.Question`` has it."""

    @property
    def key(self) -> str:
        """Key of the sample that the question belongs to."""

    @property
    def category(self) -> str:
        """Category of its questions, by which accuracies are also reported."""

    @property
    def source(self) -> str:
        """Where the sample comes from, by which accuracies are also reported."""

    @property
    def question(self) -> str:
        """The first question as asked."""

    @property
    def turns(self) -> Sequence[EvaluatedTurn]:
        """All questions with their reference answers, in their order."""


class EvaluatedBatch(VideoTextBatch, Protocol):
    """A batch whose conversations have reference answers."""

    @property
    def questions(self) -> Sequence[Any]:
        """One ``EvaluatedQuestion`` for each conversation."""

    @property
    def left_out(self) -> Sequence[str]:
        """For every sample that was left out of the batch, the name of the reason."""


class Rates(Protocol):
    """When each part of the model begins to train; ``optimization.rate_schedule.RateSchedule`` has it."""

    first_steps: dict[str, int]
    """Parts that begin later than the run -> optimizer steps before they begin."""

    def is_frozen(self, part: str, step: int) -> bool:
        """Whether a part does not train yet in the step after ``step`` steps."""


class SkippingOptimizer(Protocol):
    """An optimizer that can skip steps and average weights; ``optimization.adamw.PartwiseAdamW`` is one."""

    skips: bool
    """Whether ``step`` does nothing."""
    num_updates: int
    """Steps that did change weights."""
    param_groups: list[dict[str, Any]]
    """Groups of parameters, as in every optimizer of torch."""

    def averaged(self) -> list[tuple[Tensor, Tensor]]:
        """Parameters that have a running average, each with its average."""


class TrainingModule(LightningModule, ABC):
    """A LightningModule that trains and evaluates a video language model."""

    adamw: SkippingOptimizer
    """The optimizer; the strategy may wrap it. It exists after ``configure_optimizers``."""
    max_new_tokens: int
    """Longest answer that is generated, in tokens."""

    @property
    @abstractmethod
    def built(self) -> VideoLanguageModel:
        """The model.

        Raises:
            RuntimeError: ``configure_model`` has not run yet.
        """

    @property
    @abstractmethod
    def rates(self) -> Rates:
        """When the parts begin to train; known once training has started."""

    @abstractmethod
    def evaluation_name(self, stage: str, loader: int) -> str:
        """Name of an evaluation set.

        Args:
            stage: ``val`` or ``test``.
            loader: Index of its data loader.
        """


def as_training_module(module: LightningModule, asked_by: object) -> TrainingModule:
    """Give the module that a callback got, with its contract.

    Args:
        module: The trainer's module.
        asked_by: The callback, for the message.

    Raises:
        TypeError: It is a LightningModule of another kind.
    """
    if not isinstance(module, TrainingModule):
        raise TypeError(
            f"{type(asked_by).__name__} works with a VideoLanguageModule (or another TrainingModule of "
            f"lightning_modules.interfaces), got a {type(module).__name__}: leave the callback out"
        )
    return module
