"""Cuts the stream of draws into global batches.

A global batch is what all ranks together train on in one step. Which draws it holds depends neither on the number of
ranks nor on restarts. So the number of draws that were trained on is all that is needed to resume.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.order.batch_plan import Budget, Grouping, StageWindows, check_budget
from datamodules.order.draws import Cost, IndexArray, SampleTable, divide_samples
from datamodules.order.stream import DrawSequence, SourceSamples, StageStream, curriculum_sources
from datamodules.order.training_order import Draw, TrainingOrder


class Stage(NamedTuple):
    """A stage of training."""

    stream: StageStream
    num_batches: int | None  # global batches until the next stage; None for the last, which has no end


class _StagePart(NamedTuple):
    """The draws of a batch that belong to one stage."""

    stage: Stage
    drawn: DrawSequence


class GlobalBatches(ABC):
    """The endless sequence of global batches.

    Args:
        stages: The curriculum's stages and the last one.
        frame_tokens: Cost of a frame, see ``datamodules.order.draws.Cost``.
    """

    goes_by_lengths: bool
    """Whether the lengths of the samples decide which draws share a batch."""

    def __init__(self, stages: Sequence[Stage], frame_tokens: float) -> None:
        self._stages = tuple(stages)
        self._frame_tokens = frame_tokens

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """The settings that fix the batches, besides those of ``TrainingOrder``; plain values."""

    @property
    @abstractmethod
    def multiple(self) -> tuple[str, int]:
        """A setting by name, and its value: the number of draws of every batch is a multiple of it."""

    @property
    @abstractmethod
    def batches_per_pass(self) -> int:
        """Batches that the first pass of the last stage fills."""

    @abstractmethod
    def consumed_after(self, start: int, num_batches: int) -> int:
        """Number of draws trained on after the first ``start`` draws and ``num_batches`` more batches."""

    @abstractmethod
    def _from(self, consumed: int) -> Iterator[list[_StagePart]]:
        """The batches after the first ``consumed`` draws, each cut by stage."""

    def after(self, consumed: int) -> Iterator[tuple[list[Draw], NDArray[np.float64]]]:
        """The batches after the first ``consumed`` draws: the draws of each, and their costs.

        Where the length of a draw is not known, all costs of its batch are equal.

        Raises:
            ValueError: No batch ends after so many draws.
        """
        for batch in self._from(consumed):
            draws: list[Draw] = []
            costs = []
            for stage, drawn in batch:
                draws += stage.stream.to_draws(drawn, consumed + len(draws))
                frames = stage.stream.draw_table.frames[drawn.draw]
                costs.append(np.where(frames < 0, np.nan, self._frame_tokens * frames + drawn.tokens))
            joined = np.concatenate(costs)
            yield draws, np.zeros_like(joined) if np.isnan(joined).any() else joined
            consumed += len(draws)


class ConsecutiveBatches(GlobalBatches):
    """Batches of a fixed number of draws, in the order of the stream. A restart may change the number.

    Args:
        stages: The curriculum's stages and the last one.
        frame_tokens: Cost of a frame.
        batch_size: Draws of a global batch.
    """

    goes_by_lengths = False

    def __init__(self, stages: Sequence[Stage], frame_tokens: float, batch_size: int) -> None:
        super().__init__(stages, frame_tokens)
        self._batch_size = batch_size

    def facts(self) -> dict[str, Any]:
        """Lengths of the curriculum's stages in draws, because a restart may change the batch size."""
        lengths = [stage.num_batches * self._batch_size for stage in self._stages if stage.num_batches is not None]
        return {"draws of the curriculum's stages": lengths}

    @property
    def multiple(self) -> tuple[str, int]:
        """The batch size."""
        return "batch_size", self._batch_size

    @property
    def batches_per_pass(self) -> int:
        """Batches that a pass fills."""
        return self._stages[-1].stream.pass_length // self._batch_size

    def consumed_after(self, start: int, num_batches: int) -> int:
        """Number of draws trained on after the first ``start`` draws and ``num_batches`` more batches."""
        return start + num_batches * self._batch_size

    def _from(self, consumed: int) -> Iterator[list[_StagePart]]:
        for start in count(consumed, self._batch_size):
            yield list(self._stage_parts(start, start + self._batch_size))

    def _stage_parts(self, start: int, stop: int) -> Iterator[_StagePart]:
        begin = 0
        for stage in self._stages:
            end = stop if stage.num_batches is None else begin + stage.num_batches * self._batch_size
            if max(start, begin) < min(stop, end):
                yield _StagePart(stage, stage.stream.draws(max(start, begin) - begin, min(stop, end) - begin))
            begin = end


class PlannedBatches(GlobalBatches):
    """Batches as ``datamodules.order.batch_plan`` groups them.

    Args:
        stages: The curriculum's stages and the last one.
        grouping: How the draws of a window are put into batches.
        window: Most draws of a window.
        seed: Seed of the order of batches.
    """

    def __init__(self, stages: Sequence[Stage], grouping: Grouping, window: int, seed: int) -> None:
        super().__init__(stages, grouping.frame_tokens)
        self.goes_by_lengths = grouping.budget is not None
        self._grouping = grouping
        self._windows = [StageWindows(stage.stream, grouping, window, seed) for stage in stages]
        self._counted: tuple[int, int, int, Iterator[int]] | None = (
            None  # start, batches, draws, sizes of the next batches
        )

    def facts(self) -> dict[str, Any]:
        """How draws are grouped, and how many batches every stage of the curriculum has."""
        budget = self._grouping.budget
        return {
            "batch_size": self._grouping.group_size if budget is None else None,
            "budget": None if budget is None else asdict(budget),
            "cost.frame_tokens": self._grouping.frame_tokens,
            "batches of the curriculum's stages": [stage.num_batches for stage in self._stages],
        }

    @property
    def multiple(self) -> tuple[str, int]:
        """The group size, or without a budget the batch size."""
        return "batch_size" if self._grouping.budget is None else "budget.group_size", self._grouping.group_size

    @cached_property
    def batches_per_pass(self) -> int:
        """Batches that the first pass of the last stage fills. The pass is planned to count them."""
        num_draws = 0
        sizes = (len(batch.draw) for batch in self._windows[-1].batches(0))
        for number, size in enumerate(sizes):
            num_draws += size
            if num_draws > self._stages[-1].stream.pass_length:
                return number
        raise AssertionError("the sequence of batches has no end")

    def consumed_after(self, start: int, num_batches: int) -> int:
        """Number of draws trained on after the first ``start`` draws and ``num_batches`` more batches."""
        if self._counted is None or self._counted[0] != start or self._counted[1] > num_batches:
            self._counted = (start, 0, start, (len(batch[0].drawn.draw) for batch in self._from(start)))
        _, known, consumed, sizes = self._counted
        consumed += sum(islice(sizes, num_batches - known))
        self._counted = (start, num_batches, consumed, sizes)
        return consumed

    @cached_property
    def _stage_lengths(self) -> list[int]:
        """Draws of every stage but the last."""
        planned = zip(self._stages[:-1], self._windows[:-1], strict=True)
        return [
            sum(len(batch.draw) for batch in islice(windows.batches(0), stage.num_batches))
            for stage, windows in planned
        ]

    def _from(self, consumed: int) -> Iterator[list[_StagePart]]:
        lengths = [*self._stage_lengths, None]
        for stage, windows, length in zip(self._stages, self._windows, lengths, strict=True):
            if length is not None and consumed >= length:
                consumed -= length
                continue
            for batch in windows.batches(consumed):
                yield [_StagePart(stage, batch)]
                consumed += len(batch.draw)
                if length is not None and consumed >= length:
                    break
            consumed = 0


def global_batches(
    sources: Sequence[SourceSamples],
    samples: SampleTable,
    order: TrainingOrder,
    *,
    cost: Cost,
    batch_size: int | None = None,
    budget: Budget | None = None,
    batches_a_step: int = 1,
    stated_frames: IndexArray | None = None,
) -> GlobalBatches:
    """Build the training run's batches from its settings.

    Args:
        sources: Samples and weight of every source.
        samples: Lengths of the samples.
        order: What fixes the order.
        cost: How the work of a draw is counted.
        batch_size: Draws of a global batch; None with a budget.
        budget: What a global batch may hold; None with a batch size.
        batches_a_step: Global batches of an optimizer step; a curriculum counts in steps.
        stated_frames: Frames of every sample as its ``meta`` states them, -1 where it does not; None without a
            curriculum.

    Raises:
        ValueError: Nothing would be drawn, or the data do not allow the curriculum or the budget.
    """
    draws = divide_samples(samples, order.conversations_per_video)
    last = StageStream(sources, samples, draws, order, len(order.curriculum))
    stages = []
    done = 0
    for number, stage in enumerate(order.curriculum):
        if stated_frames is None:
            raise ValueError("a curriculum needs the stated_frames of the samples, and none are given")
        short = curriculum_sources(sources, stated_frames, stage, number)
        end = stage.until_step * batches_a_step
        stages.append(Stage(StageStream(short, samples, draws, order, number, last.pass_length), end - done))
        done = end
    stages.append(Stage(last, None))
    separate = order.modalities == "separate"
    if batch_size is not None and last.pass_length < batch_size:
        warnings.warn(
            f"a batch of {batch_size} is larger than a pass of the training data, of {last.pass_length}: "
            "every batch holds some of them several times. Set data.loading.batch_size lower, or give more data",
            stacklevel=2,
        )
    if budget is not None:
        check_budget(budget, samples, draws)
        grouping = Grouping(budget.group_size, budget, separate, cost.frame_tokens)
        batches: GlobalBatches = PlannedBatches(stages, grouping, order.window, order.seed)
    elif batch_size is None:
        raise ValueError("give batch_size or a budget")
    elif separate:
        grouping = Grouping(batch_size, None, separate, cost.frame_tokens)
        batches = PlannedBatches(stages, grouping, order.window, order.seed)
    else:
        batches = ConsecutiveBatches(stages, cost.frame_tokens, batch_size)
    return batches
