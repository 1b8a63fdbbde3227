"""Settings for reading and batching shards, and the data loaders."""

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
    """Training shards that are mixed with one weight.

    Args:
        shards: Path, url, folder or pattern as ``find_shards`` reads it, or several.
        weight: How often a sample is drawn in a pass: 1 draws every sample once, 0.5 half of them. It must be 1 if
            ``order.temperature`` is set.
    """

    shards: str | list[str]
    weight: float = 1.0


@dataclass(frozen=True)
class Loading:
    """How samples are read and made into batches.

    Args:
        batch_size: Draws (videos with all their conversations, or with ``order.conversations_per_video`` of them) of
            one batch, over all ranks together, so the number of ranks changes nothing. None with a budget.
        budget: Most frames and tokens of one batch over all ranks together, instead of a number of draws.
        eval_batch_size: Samples of a batch in validation, test and predict. None = as in training: ``batch_size``
            samples, or as many as the budget holds.
        cost: How the work of a draw is counted. It balances the ranks, and a budget groups draws by it.
        num_workers: Worker processes of every rank.
        max_length: Most text tokens of a conversation; None = no limit.
        chat: What the text of conversations depends on besides the chat template; by default the command line takes
            that of the language model.
        decoding: Decoder of videos and pictures, and its time limits.
        failures: What happens to wrong samples.
        cache: Where local copies of remote shards are stored.

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
                "reads of a video: those of all readers and the words of model.visual_prompt (0 if there is text only)"
            )

    @property
    def chat_settings(self) -> ChatSettings:
        """``chat``, or the defaults if it is None."""
        return self.chat or ChatSettings()


class LateLoader(DataLoader[Batch]):
    """A data loader that reads nothing before its first batch is requested, and whose workers start without signals.

    Lightning may make the iterator before it restores the checkpoint: ``estimated_stepping_batches`` in
    ``configure_optimizers`` causes this (its issue 20550), and sharding strategies always restore late. Workers that
    start then would read from the beginning of the run.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # a generator, so that it starts late
        with signals_held_in_children():  # worker_init_fn sets their handling
            batches = super().__iter__()
        yield from batches


class ResumableLoader(LateLoader):
    """Tells Lightning that this loader can resume. The position is in the datamodule's state."""

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
    """Refuse Lightning's distributed sampler, because the datamodule splits batches over the ranks.

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
