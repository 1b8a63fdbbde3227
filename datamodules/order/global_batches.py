"""The stream of units cut into global batches.

A global batch is what all ranks together train on in one step. Which units it holds depends on neither their number nor
on how the run was cut by restarts, so the number of units that were trained on says where to go on.
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
from datamodules.order.stream import DrawnUnits, SourceSamples, StageStream, curriculum_sources
from datamodules.order.training_order import Draw, TrainingOrder
from datamodules.order.units import Cost, IndexArray, SampleTable, divide


class Stage(NamedTuple):
    """A stage of training."""

    stream: StageStream
    num_batches: int | None  # global batches until the next stage; None for the last, which has no end


class _Stretch(NamedTuple):
    """Units of one stage that follow each other in a batch."""

    stage: Stage
    units: DrawnUnits


class GlobalBatches(ABC):
    """The endless sequence of global batches.

    Args:
        stages: The curriculum's stages and the last one.
        frame_tokens: Cost of a frame, see ``datamodules.order.units.Cost``.
    """

    goes_by_lengths: bool
    """Whether the units of a batch follow from the samples' lengths."""

    def __init__(self, stages: Sequence[Stage], frame_tokens: float) -> None:
        self._stages = tuple(stages)
        self._frame_tokens = frame_tokens

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """The settings that the batches follow from, beside those of the order; plain values."""

    @property
    @abstractmethod
    def multiple(self) -> tuple[str, int]:
        """What the units of every batch are a multiple of, with the name of its setting."""

    @property
    @abstractmethod
    def batches_per_pass(self) -> int:
        """Whole batches that the first pass of the last stage fills."""

    @abstractmethod
    def consumed_after(self, start: int, num_batches: int) -> int:
        """Units that were trained on when ``num_batches`` batches followed the first ``start`` units."""

    @abstractmethod
    def _from(self, consumed: int) -> Iterator[list[_Stretch]]:
        """The batches after ``consumed`` units."""

    def after(self, consumed: int) -> Iterator[tuple[list[Draw], NDArray[np.float64]]]:
        """The draws of every batch after ``consumed`` units, with their costs.

        The costs of a batch in which a unit does not tell its length are all equal.

        Raises:
            ValueError: No batch ends there.
        """
        for batch in self._from(consumed):
            draws: list[Draw] = []
            costs = []
            for stage, units in batch:
                draws += stage.stream.to_draws(units, consumed + len(draws))
                frames = stage.stream.units.frames[units.unit]
                costs.append(np.where(frames < 0, np.nan, self._frame_tokens * frames + units.tokens))
            joined = np.concatenate(costs)
            yield draws, np.zeros_like(joined) if np.isnan(joined).any() else joined
            consumed += len(draws)


class ConsecutiveBatches(GlobalBatches):
    """Batches of a fixed number of units, as they follow each other in the stream. A restart may change the number.

    Args:
        stages: The curriculum's stages and the last one.
        frame_tokens: Cost of a frame.
        batch_size: Units of a global batch.
    """

    goes_by_lengths = False

    def __init__(self, stages: Sequence[Stage], frame_tokens: float, batch_size: int) -> None:
        super().__init__(stages, frame_tokens)
        self._batch_size = batch_size

    def facts(self) -> dict[str, Any]:
        """Where the curriculum's stages end, in units: the batch size may change."""
        lengths = [stage.num_batches * self._batch_size for stage in self._stages if stage.num_batches is not None]
        return {"units of the curriculum's stages": lengths}

    @property
    def multiple(self) -> tuple[str, int]:
        """The batch size."""
        return "batch_size", self._batch_size

    @property
    def batches_per_pass(self) -> int:
        """Whole batches of a pass."""
        return self._stages[-1].stream.pass_length // self._batch_size

    def consumed_after(self, start: int, num_batches: int) -> int:
        """Units that were trained on when ``num_batches`` batches followed the first ``start`` units."""
        return start + num_batches * self._batch_size

    def _from(self, consumed: int) -> Iterator[list[_Stretch]]:
        for start in count(consumed, self._batch_size):
            yield list(self._stretches(start, start + self._batch_size))

    def _stretches(self, start: int, stop: int) -> Iterator[_Stretch]:
        begin = 0
        for stage in self._stages:
            end = stop if stage.num_batches is None else begin + stage.num_batches * self._batch_size
            if max(start, begin) < min(stop, end):
                yield _Stretch(stage, stage.stream.draws(max(start, begin) - begin, min(stop, end) - begin))
            begin = end


class PlannedBatches(GlobalBatches):
    """Batches as ``datamodules.order.batch_plan`` groups them.

    Args:
        stages: The curriculum's stages and the last one.
        grouping: How a window's units fall into batches.
        window: Units of a window.
        seed: Seed of the batches' order.
    """

    def __init__(self, stages: Sequence[Stage], grouping: Grouping, window: int, seed: int) -> None:
        super().__init__(stages, grouping.frame_tokens)
        self.goes_by_lengths = grouping.budget is not None
        self._grouping = grouping
        self._windows = [StageWindows(stage.stream, grouping, window, seed) for stage in stages]
        self._counted: tuple[int, int, int, Iterator[int]] | None = None  # start, batches, units, sizes of the next

    def facts(self) -> dict[str, Any]:
        """How batches are grouped, and how many every stage of the curriculum has."""
        budget = self._grouping.budget
        return {
            "batch_size": self._grouping.bundle if budget is None else None,
            "budget": None if budget is None else asdict(budget),
            "cost.frame_tokens": self._grouping.frame_tokens,
            "batches of the curriculum's stages": [stage.num_batches for stage in self._stages],
        }

    @property
    def multiple(self) -> tuple[str, int]:
        """The bundle, or without a budget the batch size."""
        return "batch_size" if self._grouping.budget is None else "budget.bundle", self._grouping.bundle

    @cached_property
    def batches_per_pass(self) -> int:
        """Whole batches that the first pass of the last stage fills: all of it is planned for this."""
        num_units = 0
        sizes = (len(batch.unit) for batch in self._windows[-1].batches(0))
        for number, size in enumerate(sizes):
            num_units += size
            if num_units > self._stages[-1].stream.pass_length:
                return number
        raise AssertionError("the sequence of batches has no end")

    def consumed_after(self, start: int, num_batches: int) -> int:
        """Units that were trained on when ``num_batches`` batches followed the first ``start`` units."""
        if self._counted is None or self._counted[0] != start or self._counted[1] > num_batches:
            self._counted = (start, 0, start, (len(batch[0].units.unit) for batch in self._from(start)))
        _, known, consumed, sizes = self._counted
        consumed += sum(islice(sizes, num_batches - known))
        self._counted = (start, num_batches, consumed, sizes)
        return consumed

    @cached_property
    def _stage_lengths(self) -> list[int]:
        """Units of every stage but the last."""
        planned = zip(self._stages[:-1], self._windows[:-1], strict=True)
        return [
            sum(len(batch.unit) for batch in islice(windows.batches(0), stage.num_batches))
            for stage, windows in planned
        ]

    def _from(self, consumed: int) -> Iterator[list[_Stretch]]:
        lengths = [*self._stage_lengths, None]
        for stage, windows, length in zip(self._stages, self._windows, lengths, strict=True):
            if length is not None and consumed >= length:
                consumed -= length
                continue
            for batch in windows.batches(consumed):
                yield [_Stretch(stage, batch)]
                consumed += len(batch.unit)
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
        cost: How much work a unit is.
        batch_size: Units of a global batch; None with a budget.
        budget: What a global batch may hold instead.
        batches_a_step: Global batches that an optimizer step takes; a curriculum counts in steps.
        stated_frames: Frames of every sample that a curriculum goes by, -1 where unknown; None without one.

    Raises:
        ValueError: Nothing would be drawn, or curriculum or budget cannot be followed.
    """
    units = divide(samples, order.conversations_per_video)
    whole = StageStream(sources, samples, units, order, len(order.curriculum))
    stages = []
    done = 0
    for number, stage in enumerate(order.curriculum):
        if stated_frames is None:
            raise ValueError("a curriculum goes by the samples' stated_frames, and none are given")
        short = curriculum_sources(sources, stated_frames, stage, number)
        end = stage.until_step * batches_a_step
        stages.append(Stage(StageStream(short, samples, units, order, number, whole.pass_length), end - done))
        done = end
    stages.append(Stage(whole, None))
    separate = order.modalities == "separate"
    if batch_size is not None and whole.pass_length < batch_size:
        warnings.warn(
            f"a batch of {batch_size} is larger than a pass of the training data, of {whole.pass_length}: "
            "every batch holds some of them several times. Set data.loading.batch_size lower, or give more data",
            stacklevel=2,
        )
    if budget is not None:
        check_budget(budget, samples, units)
        grouping = Grouping(budget.bundle, budget, separate, cost.frame_tokens)
        batches: GlobalBatches = PlannedBatches(stages, grouping, order.window, order.seed)
    elif batch_size is None:
        raise ValueError("give batch_size or a budget")
    elif separate:
        grouping = Grouping(batch_size, None, separate, cost.frame_tokens)
        batches = PlannedBatches(stages, grouping, order.window, order.seed)
    else:
        batches = ConsecutiveBatches(stages, cost.frame_tokens, batch_size)
    return batches
