"""Each rank's part of the global batches: what the data loader of one process iterates over."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from datamodules.order.batch_plan import Budget
from datamodules.order.draws import IndexArray, SampleTable
from datamodules.order.global_batches import GlobalBatches
from datamodules.order.training_order import Draw

_EVEN_ENOUGH = 1e-3
"""Relative difference of work below which ranks count as equally loaded and an exchange as no gain."""


def split_over_ranks(costs: Sequence[float] | NDArray[np.floating], world_size: int) -> list[list[int]]:
    """Give every rank equally many draws (or one less) and nearly equal work.

    Draws are sorted by cost and dealt out in rounds of one a rank. In a round the most expensive draw goes to the rank
    that has the least work so far; draws of equal cost go to the ranks in turn. Then the busiest rank exchanges draws
    with the others as long as that helps. The numbers stay equal even where unequal ones would balance better: every
    rank averages the loss over its draws, and gradients are averaged over ranks, so the draws of a rank with few would
    have more weight.

    Args:
        costs: Work of every draw.
        world_size: Number of ranks, at most the number of draws.

    Returns:
        For every rank the indices of its draws in ``costs``, ascending.

    Raises:
        ValueError: There are fewer draws than ranks. The other ranks would wait for ever for those without one.
    """
    if len(costs) < world_size:
        raise ValueError(f"{len(costs)} draws cannot be split over {world_size} ranks; every rank needs one")
    work = np.asarray(costs, dtype=np.float64)
    costliest_first = np.argsort(-work, kind="stable")
    done = np.zeros(world_size)
    owner = np.empty(len(work), dtype=np.int64)
    for start in range(0, len(work), world_size):
        row = costliest_first[start : start + world_size]
        ranks = np.argsort(done, kind="stable")[: len(row)]
        owner[row] = ranks
        done[ranks] += work[row]
    if world_size > 1:
        _exchange(owner, work, world_size)
    return [np.flatnonzero(owner == rank).tolist() for rank in range(world_size)]


def _exchange(owner: IndexArray, work: NDArray[np.float64], world_size: int) -> None:
    """Exchange draws of the busiest rank with others, each time the pair that lowers the larger of both loads most."""
    for _ in range(len(work)):
        done = np.bincount(owner, work, minlength=world_size)
        busiest = int(done.argmax())
        if done[busiest] <= done.mean() * (1 + _EVEN_ENOUGH):
            return
        own, others = np.flatnonzero(owner == busiest), np.flatnonzero(owner != busiest)
        moved = work[own][:, None] - work[others][None]
        after = np.maximum(done[busiest] - moved, done[owner[others]][None] + moved)
        best = int(after.argmin())
        if after.flat[best] > done[busiest] * (1 - _EVEN_ENOUGH):
            return
        draw, other = own[best // len(others)], others[best % len(others)]
        owner[draw], owner[other] = owner[other], owner[draw]


class TrainingBatches:
    """One rank's part of an epoch's global batches, from the current position of training.

    Args:
        batches: The global batches.
        batches_per_epoch: How many an epoch has; None = as many as the first pass fills. Draws that fill no batch come
            first in the next epoch.
        rank: This process.
        world_size: Number of processes.
        samples_consumed: Returns how many draws the run has trained on; called whenever an iteration starts.

    Raises:
        ValueError: The global batches cannot be split evenly over the ranks, or an epoch would have none.
    """

    def __init__(
        self,
        batches: GlobalBatches,
        batches_per_epoch: int | None,
        rank: int,
        world_size: int,
        samples_consumed: Callable[[], int],
    ) -> None:
        name, multiple = batches.multiple
        if multiple % world_size:
            raise ValueError(
                f"{name} {multiple} counts the samples of all ranks together and cannot be split over "
                f"{world_size} ranks; choose a multiple"
            )
        if batches_per_epoch is None and not batches.batches_per_pass:
            raise ValueError(f"a pass over the samples is less than one batch; lower {name} or set trainer.max_steps")
        self._batches = batches
        self._batches_per_epoch = batches_per_epoch
        self._rank = rank
        self._world_size = world_size
        self._samples_consumed = samples_consumed

    def __len__(self) -> int:
        return self._batches.batches_per_pass if self._batches_per_epoch is None else self._batches_per_epoch

    def __iter__(self) -> Iterator[list[Draw]]:
        for draws, costs in islice(self._batches.after(self._samples_consumed()), len(self)):
            yield [draws[index] for index in split_over_ranks(costs, self._world_size)[self._rank]]


class EvaluationBatches:
    """One rank's batches of an evaluation: every sample exactly once, in order, equally many batches on every rank.

    No sample is repeated to fill a batch, because it would be counted twice. With a batch size, sizes differ by at
    most one sample a rank. With a budget a batch has as many samples as fit, so long videos need no settings of their
    own; a sample that alone exceeds the budget is in a batch of one sample a rank, or two.

    Args:
        samples: Lengths of the samples.
        numbers: Which of them, in this order; None = all.
        batch_size: Samples of a global batch, over all ranks; None with a budget.
        budget: What a global batch may hold, instead of a batch size; its ``group_size`` has no effect here.
        frame_tokens: Cost of a frame, see ``datamodules.order.draws.Cost``.
        rank: This process.
        world_size: Number of processes.

    Raises:
        ValueError: There are fewer samples than ranks. The other ranks would wait for ever for those without one.
    """

    def __init__(
        self,
        samples: SampleTable,
        numbers: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
        budget: Budget | None = None,
        frame_tokens: float = 0.0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        chosen = np.arange(len(samples.frames)) if numbers is None else np.array(numbers, dtype=np.int64)
        if len(chosen) < world_size:
            raise ValueError(
                f"{len(chosen)} samples cannot be evaluated on {world_size} ranks; use at most as many ranks"
            )
        ends = np.concatenate([[0], np.cumsum(samples.tokens)])[samples.first_conversation]
        tokens = np.diff(ends)
        if budget is not None:
            parts = _within(budget, chosen, samples.frames, tokens, world_size)
        elif batch_size is not None:
            parts = np.array_split(chosen, min(-(-len(chosen) // batch_size), len(chosen) // world_size))
        else:
            raise ValueError("give batch_size or a budget")
        costs = frame_tokens * samples.frames + tokens
        if (samples.frames < 0).any():  # without lengths, samples are dealt out in turn
            costs = np.zeros_like(costs)
        self._batches = []
        for part in parts:
            own = split_over_ranks(costs[part], world_size)[rank]
            self._batches.append([Draw(int(number), int(number)) for number in part[own]])

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self._batches)


def _within(
    budget: Budget, chosen: IndexArray, frames: IndexArray, tokens: IndexArray, world_size: int
) -> list[IndexArray]:
    """Cut samples into batches within a budget, in steps of one sample a rank."""
    steps = np.array_split(chosen, len(chosen) // world_size)
    sums = [[int(length[step].sum()) for step in steps] for length in (frames, tokens)]
    return [np.concatenate(steps[cut]) for cut in budget.cut(*sums)]
