"""The endless stream of units: a pure function of the seed and the place, so one integer resumes it exactly.

Training walks through one stream a curriculum stage, and then the one that goes on for ever, pass after pass over the
sources. Within a pass over a source the shards are shuffled, then the units within blocks of the shuffled sequence, so
reads stay near each other.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.order.training_order import CurriculumStage, Draw, TrainingOrder
from datamodules.order.units import IndexArray, SampleTable, UnitTable
from datamodules.shards.shard_reader import ShardReader

_CONVERSATIONS = 1
"""Sets the seeds of a pass's conversations apart from those of its order."""


class SourceSamples(NamedTuple):
    """The samples of one source; sources have neighbouring numbers."""

    shards: tuple[IndexArray, ...]  # sample numbers of every shard
    weight: float  # how often a sample comes in a pass


class DrawnUnits(NamedTuple):
    """Units in the order in which they are drawn."""

    unit: IndexArray
    source: IndexArray
    source_pass: IndexArray  # number of the pass over the unit's source, which fixes its conversations
    tokens: IndexArray

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_] | slice) -> "DrawnUnits":
        """Some of these units."""
        return DrawnUnits(*(column[index] for column in self))

    @staticmethod
    def join(parts: Sequence["DrawnUnits"]) -> "DrawnUnits":
        """Units of several stretches, one after the other."""
        return DrawnUnits(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class _SourcePass(NamedTuple):
    """One pass over one source."""

    units: IndexArray
    tokens: IndexArray  # of each of these units
    conversations: IndexArray  # the source's conversations, shuffled within every sample


class StageStream:
    """The endless stream of one stage of training, pass after pass over its sources.

    A pass holds ``round(weight * units)`` draws of every source: with weight 1 every unit exactly once. What a weight
    of 0.5 leaves out comes in the next pass. With a temperature a pass has as many draws as the sources have units.

    Args:
        sources: Samples and weight of every source.
        samples: Lengths of the samples.
        units: How the samples are divided into units.
        order: What fixes the order.
        number: Number of the stage; gives each its own order.
        pass_length: Draws of a pass; None = as above.

    Raises:
        ValueError: A weight is not positive, or goes with a temperature, or is too small for a single draw.
    """

    def __init__(
        self,
        sources: Sequence[SourceSamples],
        samples: SampleTable,
        units: UnitTable,
        order: TrainingOrder,
        number: int,
        pass_length: int | None = None,
    ) -> None:
        self._shards = [[units.of_samples(shard) for shard in source.shards] for source in sources]
        self._samples = samples
        self.units = units
        self._order = order
        self.number = number
        self._sizes = sizes = np.array([sum(map(len, shards)) for shards in self._shards])
        wanted = _draws_of_a_pass(sizes, [source.weight for source in sources], order.temperature)
        self.pass_length = int(np.rint(wanted).sum()) if pass_length is None else pass_length
        """Draws of a pass."""
        shares = np.cumsum([0.0, *wanted]) / wanted.sum()
        self._draws = np.diff(np.rint(shares * self.pass_length).astype(np.int64))
        never = np.flatnonzero((self._draws == 0) & (sizes > 0))
        if pass_length is None and len(never):
            raise ValueError(
                f"source {never[0]} ({sizes[never[0]]} units) would never be drawn: its share of a pass is less than "
                "one draw; raise its weight, lower order.temperature, or remove it"
            )
        starts = [[int(shard.min()) for shard in shards if len(shard)] for shards in self._shards]
        self._first_conversation = [int(units.first_conversation[min(first)]) if first else 0 for first in starts]
        self._passes: dict[int, DrawnUnits] = {}
        self._source_passes: dict[tuple[int, int], _SourcePass] = {}

    def one_pass(self, number: int) -> DrawnUnits:
        """The draws of the ``number``-th pass, sources well mixed by their shares."""
        if number not in self._passes:
            kept = {earlier: drawn for earlier, drawn in self._passes.items() if earlier == number - 1}
            oldest = [
                max(0, number - 1) * count // max(1, size) for count, size in zip(self._draws, self._sizes, strict=True)
            ]
            self._source_passes = {key: made for key, made in self._source_passes.items() if key[1] >= oldest[key[0]]}
            self._passes = {**kept, number: self._make_pass(number)}
        return self._passes[number]

    def draws(self, start: int, stop: int) -> DrawnUnits:
        """The draws from position ``start`` of the stream to before ``stop``."""
        length = self.pass_length
        numbers = range(start // length, max(start // length, (stop - 1) // length) + 1)
        parts = [self.one_pass(number).take(_overlap(number * length, length, start, stop)) for number in numbers]
        return DrawnUnits.join(parts)

    def to_draws(self, drawn: DrawnUnits, position: int) -> list[Draw]:
        """What a data loader hands the dataset.

        Args:
            drawn: Units of this stage.
            position: Draws of the whole run before the first of them.
        """
        samples = self.units.sample[drawn.unit].tolist()
        if self._order.conversations_per_video is None:
            return [Draw(sample, position + place) for place, sample in enumerate(samples)]
        draws = []
        for place, (sample, unit, source, number) in enumerate(
            zip(samples, drawn.unit, drawn.source.tolist(), drawn.source_pass.tolist(), strict=True)
        ):
            first, end = self.units.first_conversation[unit], self.units.end_conversation[unit]
            low = self._first_conversation[source]
            numbers = self._source_pass(source, number).conversations[first - low : end - low]
            chosen = sorted((numbers - self._samples.first_conversation[sample]).tolist())
            draws.append(Draw(sample, position + place, tuple(chosen)))
        return draws

    def _make_pass(self, number: int) -> DrawnUnits:
        slots = np.repeat(np.arange(len(self._draws)), self._draws)
        np.random.default_rng([self._order.seed, self.number, number]).shuffle(slots)
        drawn = DrawnUnits(np.empty_like(slots), slots, np.empty_like(slots), np.empty_like(slots))
        for source, count in enumerate(self._draws.tolist()):
            own = self._source_draws(source, number * count, count)
            for column, values in zip(drawn, own, strict=True):
                column[slots == source] = values
        return drawn

    def _source_draws(self, source: int, start: int, count: int) -> DrawnUnits:
        """Draws ``start`` to ``start + count`` of the endless sequence of passes over one source."""
        nothing = np.empty(0, dtype=np.int64)
        parts = [DrawnUnits(nothing, nothing, nothing, nothing)]
        size = int(self._sizes[source])
        for number in range(start // size, (start + count - 1) // size + 1) if count else ():
            made = self._source_pass(source, number)
            constant = np.full(size, source), np.full(size, number)
            drawn = DrawnUnits(made.units, *constant, made.tokens)
            parts.append(drawn.take(_overlap(number * size, size, start, start + count)))
        return DrawnUnits.join(parts)

    def _source_pass(self, source: int, number: int) -> _SourcePass:
        key = (source, number)
        if key not in self._source_passes:
            self._source_passes[key] = self._make_source_pass(source, number)
        return self._source_passes[key]

    def _make_source_pass(self, source: int, number: int) -> _SourcePass:
        seed = [self._order.seed, self.number, source, number]
        shards = self._shards[source]
        units = shuffled_pass(shards, self._order.shuffle_block, np.random.default_rng(seed))
        low = self._first_conversation[source]
        high = int(self.units.end_conversation[max(int(shard.max(initial=-1)) for shard in shards)])
        conversations = np.arange(low, high)
        if self._order.conversations_per_video is not None:
            places = np.random.default_rng([*seed, _CONVERSATIONS]).random(high - low)
            of_sample = np.searchsorted(self._samples.first_conversation, conversations, side="right")
            conversations = conversations[np.lexsort((places, of_sample))]
        ends = np.concatenate([[0], np.cumsum(self._samples.tokens[conversations])]).astype(np.int64)
        first, end = self.units.first_conversation[units], self.units.end_conversation[units]
        return _SourcePass(units, ends[end - low] - ends[first - low], conversations)


def _draws_of_a_pass(sizes: IndexArray, weights: Sequence[float], temperature: float | None) -> NDArray[np.float64]:
    """Draws of every source in a pass, not rounded."""
    if any(weight <= 0 for weight in weights):
        raise ValueError(f"source weights must be positive, got {list(weights)}")
    if temperature is None:
        return np.asarray(weights * sizes, dtype=np.float64)
    if set(weights) != {1.0}:
        raise ValueError(
            f"sources are mixed by order.temperature or by their weights, not by both; got temperature {temperature} "
            f"and weights {list(weights)}: leave the weights out, or set the temperature to null"
        )
    shares = np.where(sizes > 0, np.maximum(sizes, 1) ** (1.0 / temperature), 0.0)
    return np.asarray(shares / shares.sum() * sizes.sum())


def _overlap(first: int, length: int, start: int, stop: int) -> slice:
    """The part of a stretch from ``first`` on that lies between ``start`` and ``stop``."""
    return slice(max(0, start - first), max(0, min(length, stop - first)))


def shuffled_pass(shards: Sequence[IndexArray], block: int, generator: np.random.Generator) -> IndexArray:
    """Order what one pass draws: shards shuffled, then units within blocks of that sequence.

    Args:
        shards: Unit numbers of every shard.
        block: Units of a block.
        generator: Source of randomness.

    Returns:
        Every unit number exactly once.
    """
    sequence = np.concatenate([shards[number] for number in generator.permutation(len(shards))])
    for start in range(0, len(sequence), block):
        generator.shuffle(sequence[start : start + block])
    return sequence


def source_samples(readers: Sequence[ShardReader], weights: Sequence[float]) -> list[SourceSamples]:
    """Number the samples of all sources through, in their order.

    Args:
        readers: The sources.
        weights: How often a sample of each comes in a pass.
    """
    numbered = []
    first = 0
    for reader, weight in zip(readers, weights, strict=True):
        shards = []
        for shard in reader.shards:
            shards.append(np.arange(first, first + len(shard.entries), dtype=np.int64))
            first += len(shard.entries)
        numbered.append(SourceSamples(tuple(shards), weight))
    return numbered


def curriculum_sources(
    sources: Sequence[SourceSamples], num_frames: IndexArray, stage: CurriculumStage, number: int
) -> list[SourceSamples]:
    """The samples of a curriculum stage.

    Args:
        sources: All samples.
        num_frames: Frames of every sample as its ``meta`` tells, -1 where it does not.
        stage: The stage.
        number: Its number, for messages.

    Raises:
        ValueError: A sample does not tell its length, or all are too long.
    """
    if (num_frames < 0).any():
        raise ValueError(
            f"{int((num_frames < 0).sum())} samples do not tell their length, which the curriculum goes by; "
            "write meta.num_frames into their JSON, or drop the curriculum"
        )
    short = [
        SourceSamples(tuple(shard[num_frames[shard] <= stage.max_frames] for shard in source.shards), source.weight)
        for source in sources
    ]
    if not any(len(shard) for source in short for shard in source.shards):
        raise ValueError(f"no sample has at most {stage.max_frames} frames, which curriculum stage {number} asks")
    return short
