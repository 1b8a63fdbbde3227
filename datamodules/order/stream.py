"""The endless stream of draws: a pure function of the seed and the position, so one integer resumes it exactly.

Every curriculum stage has a stream of its own; the last stage never ends. A stream makes pass after pass over the
sources. Within a pass over a source the shards are shuffled, then the draws within blocks of that sequence, so that
consecutive reads are near each other on disk.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.order.draws import DrawTable, IndexArray, SampleTable
from datamodules.order.training_order import CurriculumStage, Draw, TrainingOrder
from datamodules.shards.shard_reader import ShardReader

_CONVERSATIONS = 1
"""Part of the seed by which a pass groups conversations, so that it differs from the seed of the order."""


class SourceSamples(NamedTuple):
    """The samples of one source. All sources are numbered through, one after the other."""

    shards: tuple[IndexArray, ...]  # sample numbers of every shard
    weight: float  # how often a sample is drawn in a pass


class DrawSequence(NamedTuple):
    """Draws in the order of the stream."""

    draw: IndexArray  # [D] into the stage's table of draws
    source: IndexArray  # [D]
    source_pass: IndexArray  # [D] number of the pass over its source, which fixes the grouping of conversations
    tokens: IndexArray  # [D]

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_] | slice) -> "DrawSequence":
        """Select draws by index, mask or slice."""
        return DrawSequence(*(column[index] for column in self))

    @staticmethod
    def join(parts: Sequence["DrawSequence"]) -> "DrawSequence":
        """Concatenate sequences."""
        return DrawSequence(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class _SourcePass(NamedTuple):
    """One pass over one source."""

    draws: IndexArray  # into the stage's table of draws
    tokens: IndexArray  # of each of these draws
    conversations: IndexArray  # of the source, shuffled within every sample


class StageStream:
    """The endless stream of one stage of training, pass after pass over its sources.

    A source of n different draws gives ``round(weight * n)`` draws to a pass: with weight 1 each exactly once. What a
    weight of 0.5 leaves out comes in the next pass. With a temperature the sources share a pass of the sum of their n.

    Args:
        sources: Samples and weight of every source.
        samples: Lengths of the samples.
        draw_table: The draws that the samples are divided into.
        order: What fixes the order.
        number: Number of the stage; it is part of the seed.
        pass_length: Draws of a pass; None = as above.

    Raises:
        ValueError: A weight is not positive, is given beside a temperature, or is too small for a single draw.
    """

    def __init__(
        self,
        sources: Sequence[SourceSamples],
        samples: SampleTable,
        draw_table: DrawTable,
        order: TrainingOrder,
        number: int,
        pass_length: int | None = None,
    ) -> None:
        self._shards = [[draw_table.of_samples(shard) for shard in source.shards] for source in sources]
        self._samples = samples
        self.draw_table = draw_table
        self._order = order
        self.number = number
        self._sizes = sizes = np.array([sum(map(len, shards)) for shards in self._shards])
        wanted = _draws_of_a_pass(sizes, [source.weight for source in sources], order.temperature)
        self.pass_length = int(np.rint(wanted).sum()) if pass_length is None else pass_length
        """Draws of a pass."""
        shares = np.cumsum([0.0, *wanted]) / wanted.sum()
        self._draws_per_pass = np.diff(np.rint(shares * self.pass_length).astype(np.int64))
        never = np.flatnonzero((self._draws_per_pass == 0) & (sizes > 0))
        if pass_length is None and len(never):
            raise ValueError(
                f"source {never[0]} (of {sizes[never[0]]} draws) would never be drawn: its share of a pass is less "
                "than one draw; raise its weight, lower order.temperature, or remove it"
            )
        starts = [[int(shard.min()) for shard in shards if len(shard)] for shards in self._shards]
        self._first_conversation = [int(draw_table.first_conversation[min(first)]) if first else 0 for first in starts]
        self._passes: dict[int, DrawSequence] = {}
        self._source_passes: dict[tuple[int, int], _SourcePass] = {}

    def one_pass(self, number: int) -> DrawSequence:
        """The draws of the ``number``-th pass, with the sources shuffled together."""
        if number not in self._passes:
            recent = {earlier: drawn for earlier, drawn in self._passes.items() if earlier == number - 1}
            oldest = [
                max(0, number - 1) * count // max(1, size)
                for count, size in zip(self._draws_per_pass, self._sizes, strict=True)
            ]
            self._source_passes = {key: made for key, made in self._source_passes.items() if key[1] >= oldest[key[0]]}
            self._passes = {**recent, number: self._make_pass(number)}
        return self._passes[number]

    def draws(self, start: int, stop: int) -> DrawSequence:
        """The draws at positions ``start`` to ``stop - 1`` of the stream."""
        length = self.pass_length
        numbers = range(start // length, max(start // length, (stop - 1) // length) + 1)
        parts = [self.one_pass(number).take(_overlap(number * length, length, start, stop)) for number in numbers]
        return DrawSequence.join(parts)

    def to_draws(self, drawn: DrawSequence, position: int) -> list[Draw]:
        """Turn draws into what a data loader hands the dataset.

        Args:
            drawn: Draws of this stage.
            position: Number of draws of the whole run before the first of these.
        """
        samples = self.draw_table.sample[drawn.draw].tolist()
        if self._order.conversations_per_video is None:
            return [Draw(sample, position + index) for index, sample in enumerate(samples)]
        draws = []
        for index, (sample, draw, source, number) in enumerate(
            zip(samples, drawn.draw, drawn.source.tolist(), drawn.source_pass.tolist(), strict=True)
        ):
            first, end = self.draw_table.first_conversation[draw], self.draw_table.end_conversation[draw]
            low = self._first_conversation[source]
            numbers = self._source_pass(source, number).conversations[first - low : end - low]
            chosen = sorted((numbers - self._samples.first_conversation[sample]).tolist())
            draws.append(Draw(sample, position + index, tuple(chosen)))
        return draws

    def _make_pass(self, number: int) -> DrawSequence:
        sources = np.repeat(np.arange(len(self._draws_per_pass)), self._draws_per_pass)
        np.random.default_rng([self._order.seed, self.number, number]).shuffle(sources)
        drawn = DrawSequence(np.empty_like(sources), sources, np.empty_like(sources), np.empty_like(sources))
        for source, count in enumerate(self._draws_per_pass.tolist()):
            own = self._source_draws(source, number * count, count)
            for column, values in zip(drawn, own, strict=True):
                column[sources == source] = values
        return drawn

    def _source_draws(self, source: int, start: int, count: int) -> DrawSequence:
        """Draws ``start`` to ``start + count`` of the endless sequence of passes over one source."""
        nothing = np.empty(0, dtype=np.int64)
        parts = [DrawSequence(nothing, nothing, nothing, nothing)]
        size = int(self._sizes[source])
        for number in range(start // size, (start + count - 1) // size + 1) if count else ():
            made = self._source_pass(source, number)
            constant = np.full(size, source), np.full(size, number)
            drawn = DrawSequence(made.draws, *constant, made.tokens)
            parts.append(drawn.take(_overlap(number * size, size, start, start + count)))
        return DrawSequence.join(parts)

    def _source_pass(self, source: int, number: int) -> _SourcePass:
        key = (source, number)
        if key not in self._source_passes:
            self._source_passes[key] = self._make_source_pass(source, number)
        return self._source_passes[key]

    def _make_source_pass(self, source: int, number: int) -> _SourcePass:
        seed = [self._order.seed, self.number, source, number]
        shards = self._shards[source]
        draws = shuffled_pass(shards, self._order.shuffle_block, np.random.default_rng(seed))
        low = self._first_conversation[source]
        high = int(self.draw_table.end_conversation[max(int(shard.max(initial=-1)) for shard in shards)])
        conversations = np.arange(low, high)
        if self._order.conversations_per_video is not None:
            randoms = np.random.default_rng([*seed, _CONVERSATIONS]).random(high - low)
            of_sample = np.searchsorted(self._samples.first_conversation, conversations, side="right")
            conversations = conversations[np.lexsort((randoms, of_sample))]
        ends = np.concatenate([[0], np.cumsum(self._samples.tokens[conversations])]).astype(np.int64)
        first, end = self.draw_table.first_conversation[draws], self.draw_table.end_conversation[draws]
        return _SourcePass(draws, ends[end - low] - ends[first - low], conversations)


def _draws_of_a_pass(sizes: IndexArray, weights: Sequence[float], temperature: float | None) -> NDArray[np.float64]:
    """Number of draws of every source in a pass, not rounded."""
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
    """Slice of the items ``first`` to ``first + length`` that is between ``start`` and ``stop``."""
    return slice(max(0, start - first), max(0, min(length, stop - first)))


def shuffled_pass(shards: Sequence[IndexArray], block: int, generator: np.random.Generator) -> IndexArray:
    """Order the draws of one pass: shards shuffled, then draws within blocks of that sequence.

    Args:
        shards: Numbers of the draws of every shard.
        block: Draws of a block.
        generator: Source of randomness.

    Returns:
        Every number exactly once.
    """
    sequence = np.concatenate([shards[number] for number in generator.permutation(len(shards))])
    for start in range(0, len(sequence), block):
        generator.shuffle(sequence[start : start + block])
    return sequence


def source_samples(readers: Sequence[ShardReader], weights: Sequence[float]) -> list[SourceSamples]:
    """Number the samples of all sources through, in their order.

    Args:
        readers: The sources.
        weights: How often a sample of each is drawn in a pass.
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
        num_frames: Frames of every sample as its ``meta`` states them, -1 where it does not.
        stage: The stage.
        number: Its number, for messages.

    Raises:
        ValueError: A sample does not state its length, or all are too long.
    """
    if (num_frames < 0).any():
        raise ValueError(
            f"{int((num_frames < 0).sum())} samples do not state their length, which the curriculum needs; "
            "write meta.num_frames into their JSON, or drop the curriculum"
        )
    short = [
        SourceSamples(tuple(shard[num_frames[shard] <= stage.max_frames] for shard in source.shards), source.weight)
        for source in sources
    ]
    if not any(len(shard) for source in short for shard in source.shards):
        raise ValueError(f"no sample has at most {stage.max_frames} frames, which curriculum stage {number} asks for")
    return short
