"""Global batches of units of like length, within a budget of frames and tokens: planned window by window.

The draws of a pass are cut into windows. In a window the units of every modality are sorted by cost and tied into
bundles of neighbours; batches are whole bundles, as many as the budget holds, and the batches are shuffled. What
ties no whole bundle waits for the next window. So

- a global batch never exceeds its budget, and depends on nothing but the settings and its place in the run;
- its units come in bundles of one modality and nearly one cost: any number of ranks that divides the bundle gets equal
  work out of each;
- between two windows less than a bundle of each modality waits, everything else has been drawn in its own pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.order.stream import DrawnUnits, StageStream
from datamodules.order.units import MODALITIES, IndexArray, SampleTable, UnitTable, longest_unit

_BATCH_ORDER = 2
"""Sets the seeds of a window's batches apart from those of the stream."""


@dataclass(frozen=True)
class Budget:
    """As many units a global batch as fit, over all ranks together, instead of a fixed number.

    Args:
        max_frames: Most frames of a global batch.
        max_tokens: Most tokens of a global batch, text and visual ones, every conversation for itself; what padding to
            the longest adds is not counted. The text's are estimated from its characters.
        bundle: The units of a batch are a multiple of this; the number of ranks must divide it, then and after every
            restart. A bundle of the longest units must fit the budget.

    Raises:
        ValueError: No limit is given, or a value is not positive.
    """

    max_frames: int | None = None
    max_tokens: int | None = None
    bundle: int = 8

    def __post_init__(self) -> None:
        if self.max_frames is None and self.max_tokens is None:
            raise ValueError("a budget needs max_frames, max_tokens or both")
        if any(value is not None and value < 1 for value in (self.max_frames, self.max_tokens, self.bundle)):
            raise ValueError(f"max_frames, max_tokens and bundle must be positive, got {self}")

    def cut(self, frames: Sequence[int], tokens: Sequence[int]) -> list[slice]:
        """Cut a sequence into stretches within the budget, each as long as possible, but of one item at least.

        Args:
            frames: Frames of every item.
            tokens: Tokens of every item.
        """
        most_frames = self.max_frames if self.max_frames is not None else float("inf")
        most_tokens = self.max_tokens if self.max_tokens is not None else float("inf")
        stretches = []
        start = sum_frames = sum_tokens = 0
        for place, (more_frames, more_tokens) in enumerate(zip(frames, tokens, strict=True)):
            sum_frames += more_frames
            sum_tokens += more_tokens
            if place > start and (sum_frames > most_frames or sum_tokens > most_tokens):
                stretches.append(slice(start, place))
                start, sum_frames, sum_tokens = place, more_frames, more_tokens
        return [*stretches, slice(start, len(frames))] if len(frames) else []


def check_budget(budget: Budget, samples: SampleTable, units: UnitTable) -> None:
    """Refuse a budget that cannot be kept, before training starts.

    Args:
        budget: What a global batch may hold.
        samples: Lengths of the samples.
        units: How they are divided.

    Raises:
        ValueError: A bundle of the longest units does not fit, or text has no limit because only frames have one.
    """
    for limit, name, longest in (
        (budget.max_frames, "max_frames", int(samples.frames.max(initial=0))),
        (budget.max_tokens, "max_tokens", longest_unit(samples, units)),
    ):
        if limit is not None and limit < longest * budget.bundle:
            raise ValueError(
                f"{name} {limit} cannot hold a bundle of {budget.bundle} units of {longest} {name[4:]}, the longest of "
                f"the data; raise it to {longest * budget.bundle}, lower the bundle (a multiple of the number of "
                "ranks), or bound the samples (sampling.max_frames, max_length, order.conversations_per_video)"
            )
    if budget.max_tokens is None and (samples.modality == MODALITIES.index("text")).any():
        raise ValueError("a budget of frames alone does not limit text, which has none; set max_tokens too")


class Grouping(NamedTuple):
    """How a window's units fall into batches."""

    bundle: int  # units that stay together; without a budget they are a batch
    budget: Budget | None
    separate: bool  # a batch holds one modality only
    frame_tokens: float  # cost of a frame, see ``datamodules.order.units.Cost``


class _Place(NamedTuple):
    """A place between two windows."""

    consumed: int  # units in batches so far
    waiting: DrawnUnits  # drawn, but in no batch yet: less than a bundle of each modality


class StageWindows:
    """The endless sequence of one stage's global batches.

    Args:
        stream: The stage's units.
        grouping: How a window's units fall into batches.
        window: Units of a window, at most.
        seed: Seed of the batches' order.
    """

    def __init__(self, stream: StageStream, grouping: Grouping, window: int, seed: int) -> None:
        self._stream = stream
        self._grouping = grouping
        self._seed = seed
        self._windows = -(-stream.pass_length // window)  # of a pass
        nothing = np.empty(0, dtype=np.int64)
        self._pass_starts = [_Place(0, DrawnUnits(nothing, nothing, nothing, nothing))]

    def batches(self, consumed: int) -> Iterator[DrawnUnits]:
        """The stage's batches from the one on that comes after ``consumed`` units.

        Raises:
            ValueError: No batch ends there.
        """
        number, place = self._window_of(consumed)
        while True:
            ready, after = self._advance(place, self._draws(number))
            for batch in self._plan(number, ready):
                if place.consumed >= consumed:
                    yield batch
                elif place.consumed + len(batch.unit) > consumed:
                    raise ValueError(
                        f"no global batch ends after {consumed} units of stage {self._stream.number}; was the "
                        "checkpoint's samples_consumed changed?"
                    )
                place = place._replace(consumed=place.consumed + len(batch.unit))
            number, place = number + 1, after

    def _window_of(self, consumed: int) -> tuple[int, _Place]:
        """The window that holds the batch after ``consumed`` units, and the place before it."""
        whole = consumed // self._stream.pass_length
        number, place = whole * self._windows, self._pass_start(whole)
        while (after := self._advance(place, self._draws(number))[1]).consumed <= consumed:
            number, place = number + 1, after
        return number, place

    def _pass_start(self, number: int) -> _Place:
        while len(self._pass_starts) <= number:
            one_pass = self._stream.one_pass(len(self._pass_starts) - 1)
            self._pass_starts.append(self._advance(self._pass_starts[-1], one_pass)[1])
        return self._pass_starts[number]

    def _draws(self, window: int) -> DrawnUnits:
        return self._stream.draws(self._start(window), self._start(window + 1))

    def _start(self, window: int) -> int:
        whole, part = divmod(window, self._windows)
        length = self._stream.pass_length
        return whole * length + part * length // self._windows

    def _advance(self, place: _Place, drawn: DrawnUnits) -> tuple[DrawnUnits, _Place]:
        """Of what waited and these draws, what goes into batches; and the place after them."""
        units = DrawnUnits.join([place.waiting, drawn])
        waits = np.zeros(len(units.unit), dtype=np.bool_)
        for members in self._by_modality(units):
            waits[members[len(members) - len(members) % self._grouping.bundle :]] = True
        ready = units.take(~waits)
        return ready, _Place(place.consumed + len(ready.unit), units.take(waits))

    def _by_modality(self, units: DrawnUnits) -> list[IndexArray]:
        modality = self._stream.units.modality[units.unit]
        return [np.flatnonzero(modality == kind) for kind in range(len(MODALITIES))]

    def _plan(self, number: int, units: DrawnUnits) -> list[DrawnUnits]:
        """Put units into batches: a whole number of bundles of every modality."""
        frames = self._stream.units.frames[units.unit]
        sequences = [self._bundles(units, frames, members) for members in self._by_modality(units) if len(members)]
        if not self._grouping.separate and sequences:
            sequences = [_interleaved(sequences)]
        batches = []
        for bundles in sequences:
            stretches = [slice(place, place + 1) for place in range(len(bundles))]
            if self._grouping.budget is not None:
                sums = frames[bundles].sum(axis=1).tolist(), units.tokens[bundles].sum(axis=1).tolist()
                stretches = self._grouping.budget.cut(*sums)
            batches += [units.take(bundles[stretch].reshape(-1)) for stretch in stretches]
        generator = np.random.default_rng([self._seed, self._stream.number, number, 0, _BATCH_ORDER])
        return [batches[place] for place in generator.permutation(len(batches))]

    def _bundles(self, units: DrawnUnits, frames: IndexArray, members: IndexArray) -> IndexArray:
        """Tie the units of one modality into bundles, ``[bundles, units of a bundle]``: with a budget by cost."""
        if self._grouping.budget is not None:
            cost = self._grouping.frame_tokens * frames[members] + units.tokens[members]
            members = members[np.argsort(-cost, kind="stable")]  # what fills no batch is left of the shortest
        return members.reshape(-1, self._grouping.bundle)


def _interleaved(sequences: Sequence[IndexArray]) -> IndexArray:
    """Join the modalities' bundles, short with short and long with long: every stretch has the shares of the whole."""
    quantiles: list[NDArray[np.float64]] = [(np.arange(len(bundles)) + 0.5) / len(bundles) for bundles in sequences]
    joined: IndexArray = np.concatenate(sequences)[np.argsort(np.concatenate(quantiles), kind="stable")]
    return joined
