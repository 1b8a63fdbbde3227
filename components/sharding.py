"""How parts and a strategy that shards weights work together, without knowing each other.

A strategy that spreads every weight over the ranks announces itself while the parts are built. A part that loads large
weights hands them over as soon as they are there (``hand_to_sharding``), and later calls its sharded modules equally
often on every rank: each call gathers weights, and a rank that calls once more than the others waits for ever.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn
from torch.distributed.tensor import DTensor


class Sharding(ABC):
    """What a strategy that shards weights does for the parts.

    Attributes:
        nested_checkpoints: Whether a call may be computed again in backward whose own parts are computed again too.
    """

    nested_checkpoints: bool = True

    @abstractmethod
    def shard(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        """Leave of every weight only this rank's share, in place.

        At most one block of the model is whole in memory at any time.

        Args:
            model: Its weights are equal on all ranks.
            dtype: What its weights are converted to on the way; None leaves each as it is.
        """

    @abstractmethod
    def largest_of_all_ranks(self, value: int) -> int:
        """The largest value that any rank gives; every rank must call it."""


class SkipsUnusedCompute:
    """A module whose ``forward`` may save work where the batch allows it.

    It leaves out of the graph what would change nothing, or reads weights of the modules in it instead of calling them.

    A strategy that gathers weights call by call, in backward too, forbids it: the weights would be missing, and where
    only some ranks' batches are such that it saves work, the ranks would gather at different times and wait for each
    other for ever.

    Attributes:
        may_skip_unused_compute: Whether it may.
    """

    may_skip_unused_compute: bool = True


_active: ContextVar[Sharding | None] = ContextVar("sharding", default=None)


@contextmanager
def building_sharded(sharding: Sharding) -> Iterator[None]:
    """Let the parts that are built in this context hand their weights to a strategy."""
    token = _active.set(sharding)
    try:
        yield
    finally:
        _active.reset(token)


def active_sharding() -> Sharding | None:
    """The strategy that shards what is being built now, if there is one."""
    return _active.get()


def is_sharded(part: nn.Module) -> bool:
    """Whether calling the part gathers weights from all ranks: none may do so alone."""
    return any(hasattr(parameter, "ds_id") or isinstance(parameter, DTensor) for parameter in part.parameters())


def hand_to_sharding(model: nn.Module, dtype: torch.dtype) -> Sharding | None:
    """Hand weights that were just loaded to the strategy, converted to the dtype in which they are used.

    Where a strategy shards, load weights in the dtype of their file: they are then mapped into memory and not read
    before the rank takes its share of each. Elsewhere they are already in ``dtype`` and nothing happens.

    Args:
        model: The model, complete: weights that are added later would not be sharded.
        dtype: Dtype of the weights.

    Returns:
        The strategy, where one shards.
    """
    sharding = active_sharding()
    if sharding is not None:
        sharding.shard(model, dtype)
    return sharding
