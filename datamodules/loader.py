"""Which shards are read, how they are batched, and the data loaders that do it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader

from components.language.chat_template import ChatSettings
from datamodules.batch import Batch, collate
from datamodules.failures import FailurePolicy
from datamodules.media.decoding import Decoding
from datamodules.media.worker_signals import outlive_signals, signals_held_in_children
from datamodules.order.batch_plan import Budget
from datamodules.order.draws import Cost
from datamodules.shards.shard_cache import ShardCache


@dataclass(frozen=True)
class Source:
    """Training shards of one kind.

    Args:
        shards: Path, url, folder or pattern as ``find_shards`` reads it, or several.
        weight: How often a sample comes in a pass; 1 draws every sample once, 0.5 half of them. Stays 1 where
            ``order.temperature`` mixes the sources.
    """

    shards: str | list[str]
    weight: float = 1.0


@dataclass(frozen=True)
class Loading:
    """How samples are read and joined.

    Args:
        batch_size: Samples (videos with all their conversations, or with ``order.conversations_per_video`` of them) of
            one batch over all ranks together, so that the number of ranks changes nothing. None with a budget.
        budget: Frames and tokens of one batch over all ranks together, instead of a number of samples.
        eval_batch_size: Samples of a batch in validation, test and predict. None = as in training: ``batch_size``
            samples, or as many as the budget holds.
        cost: How much work a sample is: the ranks' is balanced by it, and a budget groups by it.
        num_workers: Worker processes of every rank.
        max_length: Most text tokens of a conversation; None = no bound.
        chat: What the text of conversations depends on besides the chat template; the command line takes the language
            model's where it is left out.
        decoding: With what videos and pictures are decoded, and when a decoder is given up.
        failures: What happens to wrong samples.
        cache: Where local copies of remote shards are kept.

    Raises:
        ValueError: A size is not positive, or not exactly one of ``batch_size`` and ``budget`` is given.
    """

    batch_size: int | None = 8
    budget: Budget | None = None
    eval_batch_size: int | None = None
    cost: Cost = field(default_factory=Cost)
    num_workers: int = 2
    max_length: int | None = 2048
    chat: ChatSettings | None = None
    decoding: Decoding = field(default_factory=Decoding)
    failures: FailurePolicy = field(default_factory=FailurePolicy)
    cache: ShardCache = field(default_factory=ShardCache)

    def __post_init__(self) -> None:
        sizes = [self.batch_size, self.eval_batch_size, self.max_length]
        if any(size is not None and size < 1 for size in sizes) or self.num_workers < 0:
            raise ValueError(f"batch sizes and max_length must be positive, num_workers not negative, got {self}")
        if (self.batch_size is None) == (self.budget is None):
            raise ValueError(f"give either batch_size or budget and null for the other, got {self}")
        if self.budget is not None and self.budget.max_tokens is not None and self.cost.visual_tokens is None:
            raise ValueError(
                "budget.max_tokens counts the visual tokens too: set cost.visual_tokens to how many the language model "
                "reads of a video, what the bridge's readout gives (0 where there is text only)"
            )

    @property
    def chat_settings(self) -> ChatSettings:
        """``chat``; the defaults where it is left out."""
        return self.chat or ChatSettings()


class LateLoader(DataLoader[Batch]):
    """A data loader that reads nothing before its first batch is asked for, and whose workers begin without signals.

    Lightning may make the iterator before it restores the checkpoint (its issue 20550: ``estimated_stepping_batches``
    in ``configure_optimizers`` is enough, and sharding strategies restore late anyway). Started then, workers would
    fetch from where the run once began.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # a generator is what starts late
        with signals_held_in_children():  # worker_init_fn says what they do with them from then on
            batches = super().__iter__()
        yield from batches


class ResumableLoader(LateLoader):
    """Tells Lightning that it can resume; where to is the datamodule's state, which is restored in time."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see the class."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing: see the class."""


def batch_loader(kind: type[LateLoader], dataset: Any, batches: Any, num_workers: int) -> DataLoader[Batch]:
    """Make a data loader.

    Args:
        kind: Class of the data loader.
        dataset: Gives samples by index.
        batches: Batch sampler: gives the indexes of every batch.
        num_workers: Worker processes.
    """
    return kind(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=outlive_signals,
        pin_memory=torch.cuda.is_available(),
    )


def refuse_other_sampler(trainer: Any) -> None:
    """Refuse a sampler of Lightning's beside this project's own split over the ranks.

    Args:
        trainer: Lightning's trainer, None without one.

    Raises:
        ValueError: ``trainer.use_distributed_sampler`` is on with several processes.
    """
    if trainer is None or trainer.world_size == 1:
        return
    if trainer._accelerator_connector.use_distributed_sampler:
        raise ValueError(
            "set trainer.use_distributed_sampler: false (configs/base.yaml does): this datamodule splits every "
            "batch over the ranks itself, and a second split would lose samples and break resuming"
        )
