"""Global batches of draws of similar length, within a budget of frames and tokens: planned window by window.

The draws of a pass are cut into windows. The draws of a window are sorted by cost, each modality separately, and
neighbours form groups of a fixed size. A batch has as many groups as the budget holds. The batches of a window are
shuffled. Draws that do not fill a group carry over to the next window. So

- a global batch never exceeds its budget, and depends only on the settings and its position in the run;
- its draws come in groups of one modality and nearly one cost: any number of ranks that divides the group size gets
  equal work out of each group;
- less than a group of each modality carries over between windows; everything else is drawn in its own pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.order.draws import MODALITIES, DrawTable, IndexArray, SampleTable, longest_draw
from datamodules.order.stream import DrawSequence, StageStream

_BATCH_ORDER = 2
"""Part of the seed of a window's order of batches, so that it differs from the seeds of the stream."""


@dataclass(frozen=True)
class Budget:
    """What a global batch may hold, over all ranks together, instead of a fixed number of draws.

    Args:
        max_frames: Most frames of a global batch.
        max_tokens: Most tokens of a global batch: of text, estimated from its characters, and visual ones, in every
            conversation. Padding is not counted.
        group_size: The number of draws of a batch is a multiple of this. The number of ranks must divide it, also after
            a restart. A group of the longest draws must fit the budget.

    Raises:
        ValueError: No limit is given, or a value is not positive.
    """

    max_frames: int | None = None
    max_tokens: int | None = None
    group_size: int = 8

    def __post_init__(self) -> None:
        if self.max_frames is None and self.max_tokens is None:
            raise ValueError("a budget needs max_frames, max_tokens or both")
        if any(value is not None and value < 1 for value in (self.max_frames, self.max_tokens, self.group_size)):
            raise ValueError(f"max_frames, max_tokens and group_size must be positive, got {self}")

    def cut(self, frames: Sequence[int], tokens: Sequence[int]) -> list[slice]:
        """Cut a sequence into slices within the budget, each as long as possible, but of one item at least.

        Args:
            frames: Frames of every item.
            tokens: Tokens of every item.
        """
        most_frames = self.max_frames if self.max_frames is not None else float("inf")
        most_tokens = self.max_tokens if self.max_tokens is not None else float("inf")
        slices = []
        start = sum_frames = sum_tokens = 0
        for index, (more_frames, more_tokens) in enumerate(zip(frames, tokens, strict=True)):
            sum_frames += more_frames
            sum_tokens += more_tokens
            if index > start and (sum_frames > most_frames or sum_tokens > most_tokens):
                slices.append(slice(start, index))
                start, sum_frames, sum_tokens = index, more_frames, more_tokens
        return [*slices, slice(start, len(frames))] if len(frames) else []


def check_budget(budget: Budget, samples: SampleTable, draws: DrawTable) -> None:
    """Refuse a budget that is too small for the data, before training starts.

    Args:
        budget: What a global batch may hold.
        samples: Lengths of the samples.
        draws: The draws that these samples are divided into.

    Raises:
        ValueError: A group of the longest draws does not fit, or nothing limits text because only frames have a limit.
    """
    for limit, name, longest in (
        (budget.max_frames, "max_frames", int(samples.frames.max(initial=0))),
        (budget.max_tokens, "max_tokens", longest_draw(samples, draws)),
    ):
        if limit is not None and limit < longest * budget.group_size:
            raise ValueError(
                f"{name} {limit} cannot hold a group of {budget.group_size} draws of {longest} {name[4:]}, the longest "
                f"of the data; raise it to {longest * budget.group_size}, lower group_size (a multiple of the number "
                "of ranks), or bound the samples (sampling.max_frames, max_length, order.conversations_per_video)"
            )
    if budget.max_tokens is None and (samples.modality == MODALITIES.index("text")).any():
        raise ValueError("a budget of frames alone does not limit text, which has none; set max_tokens too")


class Grouping(NamedTuple):
    """How the draws of a window are put into batches."""

    group_size: int  # draws that stay together; without a budget they are a batch
    budget: Budget | None
    separate: bool  # a batch holds one modality only
    frame_tokens: float  # cost of a frame, see ``datamodules.order.draws.Cost``


class _WindowStart(NamedTuple):
    """What is known before a window is planned."""

    consumed: int  # draws in batches so far
    waiting: DrawSequence  # draws of earlier windows that are in no batch yet: less than a group of each modality


class StageWindows:
    """The endless sequence of one stage's global batches.

    Args:
        stream: The stage's draws.
        grouping: How the draws of a window are put into batches.
        window: Most draws of a window.
        seed: Seed of the order of batches.
    """

    def __init__(self, stream: StageStream, grouping: Grouping, window: int, seed: int) -> None:
        self._stream = stream
        self._grouping = grouping
        self._seed = seed
        self._windows = -(-stream.pass_length // window)  # of a pass
        nothing = np.empty(0, dtype=np.int64)
        self._pass_starts = [_WindowStart(0, DrawSequence(nothing, nothing, nothing, nothing))]

    def batches(self, consumed: int) -> Iterator[DrawSequence]:
        """The stage's batches, beginning after the first ``consumed`` draws.

        Raises:
            ValueError: No batch ends after so many draws.
        """
        number, start = self._window_of(consumed)
        while True:
            ready, following = self._advance(start, self._draws(number))
            for batch in self._plan(number, ready):
                if start.consumed >= consumed:
                    yield batch
                elif start.consumed + len(batch.draw) > consumed:
                    raise ValueError(
                        f"no global batch ends after {consumed} draws of stage {self._stream.number}; was the "
                        "checkpoint's samples_consumed changed?"
                    )
                start = start._replace(consumed=start.consumed + len(batch.draw))
            number, start = number + 1, following

    def _window_of(self, consumed: int) -> tuple[int, _WindowStart]:
        """Number and start of the window that holds the batch after ``consumed`` draws."""
        passes = consumed // self._stream.pass_length
        number, start = passes * self._windows, self._pass_start(passes)
        while (following := self._advance(start, self._draws(number))[1]).consumed <= consumed:
            number, start = number + 1, following
        return number, start

    def _pass_start(self, number: int) -> _WindowStart:
        while len(self._pass_starts) <= number:
            one_pass = self._stream.one_pass(len(self._pass_starts) - 1)
            self._pass_starts.append(self._advance(self._pass_starts[-1], one_pass)[1])
        return self._pass_starts[number]

    def _draws(self, window: int) -> DrawSequence:
        return self._stream.draws(self._first_draw(window), self._first_draw(window + 1))

    def _first_draw(self, window: int) -> int:
        passes, part = divmod(window, self._windows)
        length = self._stream.pass_length
        return passes * length + part * length // self._windows

    def _advance(self, start: _WindowStart, drawn: DrawSequence) -> tuple[DrawSequence, _WindowStart]:
        """The draws of a window that are put into batches, and the start of the next window."""
        available = DrawSequence.join([start.waiting, drawn])
        waits = np.zeros(len(available.draw), dtype=np.bool_)
        for members in self._by_modality(available):
            waits[members[len(members) - len(members) % self._grouping.group_size :]] = True
        ready = available.take(~waits)
        return ready, _WindowStart(start.consumed + len(ready.draw), available.take(waits))

    def _by_modality(self, drawn: DrawSequence) -> list[IndexArray]:
        modality = self._stream.draw_table.modality[drawn.draw]
        return [np.flatnonzero(modality == number) for number in range(len(MODALITIES))]

    def _plan(self, number: int, drawn: DrawSequence) -> list[DrawSequence]:
        """Put the draws of a window into batches; there is a multiple of ``group_size`` of every modality."""
        frames = self._stream.draw_table.frames[drawn.draw]
        sequences = [self._groups(drawn, frames, members) for members in self._by_modality(drawn) if len(members)]
        if not self._grouping.separate and sequences:
            sequences = [_interleaved(sequences)]
        batches = []
        for groups in sequences:
            slices = [slice(index, index + 1) for index in range(len(groups))]
            if self._grouping.budget is not None:
                sums = frames[groups].sum(axis=1).tolist(), drawn.tokens[groups].sum(axis=1).tolist()
                slices = self._grouping.budget.cut(*sums)
            batches += [drawn.take(groups[part].reshape(-1)) for part in slices]
        generator = np.random.default_rng([self._seed, self._stream.number, number, 0, _BATCH_ORDER])
        return [batches[index] for index in generator.permutation(len(batches))]

    def _groups(self, drawn: DrawSequence, frames: IndexArray, members: IndexArray) -> IndexArray:
        """Group the draws of one modality, ``[groups, group_size]``; with a budget by cost."""
        if self._grouping.budget is not None:
            cost = self._grouping.frame_tokens * frames[members] + drawn.tokens[members]
            # Most expensive first, so that the batch that stays smaller than the budget has the shortest draws.
            members = members[np.argsort(-cost, kind="stable")]
        return members.reshape(-1, self._grouping.group_size)


def _interleaved(sequences: Sequence[IndexArray]) -> IndexArray:
    """Join the groups of all modalities, by their rank in cost: every part has nearly the shares of all of them."""
    quantiles: list[NDArray[np.float64]] = [(np.arange(len(groups)) + 0.5) / len(groups) for groups in sequences]
    joined: IndexArray = np.concatenate(sequences)[np.argsort(np.concatenate(quantiles), kind="stable")]
    return joined
