"""In which order samples are drawn: a pure function of the seed and the place, so one integer resumes it exactly.

Training draws from one endless stream of samples, cut into global batches. Rank r of W takes every W-th sample of a
batch from the r-th on, so the number of ranks, workers and prefetched batches changes nothing, and the number of
samples that were trained on says where to go on. Within a pass over a source the shards are shuffled, then the samples
within blocks of the shuffled sequence, so reads stay near each other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class CurriculumStage:
    """The start of training, on short videos only.

    Args:
        until_fraction: Part of the training steps at which this stage ends.
        max_frames: Most frames (``meta.num_frames``) of a sample that is drawn.
    """

    until_fraction: float
    max_frames: int


@dataclass(frozen=True)
class TrainingOrder:
    """What fixes the order of training samples.

    Args:
        seed: Seed of the order and of the augmentation.
        curriculum: Stages at the start of the run, whose length in steps must then be known.
        shuffle_block: Samples that are shuffled with each other; larger mixes better, smaller reads nearer.

    Raises:
        ValueError: A value makes no sense.
    """

    seed: int = 0
    curriculum: list[CurriculumStage] = field(default_factory=list)
    shuffle_block: int = 1000

    def __post_init__(self) -> None:
        if self.seed < 0 or self.shuffle_block < 1:
            raise ValueError(f"seed must not be negative and shuffle_block be positive, got {self}")
        ends = [0.0, *(stage.until_fraction for stage in self.curriculum)]
        if ends != sorted(set(ends)) or ends[-1] > 1:
            raise ValueError(f"the curriculum's until_fraction must grow from above 0 to at most 1, got {ends[1:]}")


class SourceSamples(NamedTuple):
    """The samples of one source."""

    shards: tuple[Numbers, ...]  # sample numbers of every shard
    weight: float  # how often a sample comes in a pass


class Draw(NamedTuple):
    """One draw of the stream: which sample, and where in the stream, which seeds its augmentation."""

    sample: int
    position: int


class SampleStream:
    """The endless stream of training samples: the curriculum's stages, then pass after pass over the sources.

    A pass holds ``round(weight * samples)`` draws of every source: with weight 1 every sample exactly once. What a
    weight of 0.5 leaves out comes in the next pass. The length of the run moves the curriculum's stages and nothing
    else, so a run without a curriculum may go on for longer than was planned.

    Args:
        sources: Samples and weight of every source.
        num_frames: Frames of every sample, -1 where unknown.
        order: What fixes the order.
        batch_size: Samples of a global batch.
        num_batches: Global batches of the whole run, which then is one epoch. None = an epoch is one pass.

    Raises:
        ValueError: Nothing would be drawn, or the curriculum cannot be followed.
    """

    def __init__(
        self,
        sources: Sequence[SourceSamples],
        num_frames: Numbers,
        order: TrainingOrder,
        batch_size: int,
        num_batches: int | None = None,
    ) -> None:
        if any(source.weight <= 0 for source in sources):
            raise ValueError(f"source weights must be positive, got {[source.weight for source in sources]}")
        self._whole = _Stage(sources, order, number=len(order.curriculum))
        self._passes: dict[int, Numbers] = {}
        self.pass_length = sum(round(source.weight * _count(source.shards)) for source in sources)
        """Draws of a pass."""
        self.batches_per_epoch = self.pass_length // batch_size if num_batches is None else num_batches
        """Whole global batches of an epoch; the draws left over open the next one."""
        if self.pass_length < 1 or self.batches_per_epoch < 1:
            raise ValueError(f"{self.pass_length} samples are less than one batch of {batch_size}; lower batch_size")
        stages = _curriculum(sources, num_frames, order, num_batches)
        lengths = [num * batch_size for _, num in stages]
        drawn = [stage.numbers(0, length) for (stage, _), length in zip(stages, lengths, strict=True)]
        self.curriculum = np.concatenate([np.empty(0, dtype=np.int64), *drawn])
        """Sample numbers of the curriculum's stages, before the first pass."""

    def draws(self, start: int, count: int) -> list[Draw]:
        """The draws from position ``start`` of the stream on."""
        return [Draw(self._sample(position), position) for position in range(start, start + count)]

    def _sample(self, position: int) -> int:
        if position < len(self.curriculum):
            return int(self.curriculum[position])
        number, place = divmod(position - len(self.curriculum), self.pass_length)
        if number not in self._passes:
            kept = {earlier: order for earlier, order in self._passes.items() if earlier == number - 1}
            self._passes = {**kept, number: self._whole.numbers(number, self.pass_length)}
        return int(self._passes[number][place])


def _curriculum(
    sources: Sequence[SourceSamples], num_frames: Numbers, order: TrainingOrder, num_batches: int | None
) -> list[tuple["_Stage", int]]:
    """The curriculum's stages, each with its number of global batches."""
    if not order.curriculum:
        return []
    if num_batches is None:
        raise ValueError("a curriculum needs the length of the run that its fractions are of; set trainer.max_steps")
    if (num_frames < 0).any():
        raise ValueError(
            f"{int((num_frames < 0).sum())} samples do not tell their length, which the curriculum goes by; "
            "write meta.num_frames into their JSON, or drop the curriculum"
        )
    stages = []
    done = 0
    for number, stage in enumerate(order.curriculum):
        short = [
            SourceSamples(tuple(shard[num_frames[shard] <= stage.max_frames] for shard in source.shards), source.weight)
            for source in sources
        ]
        if not any(_count(source.shards) for source in short):
            raise ValueError(f"no sample has at most {stage.max_frames} frames, which curriculum stage {number} asks")
        end = round(stage.until_fraction * num_batches)
        stages.append((_Stage(short, order, number), end - done))
        done = end
    return stages


class _Stage:
    """Draws from several sources by their shares."""

    def __init__(self, sources: Sequence[SourceSamples], order: TrainingOrder, number: int) -> None:
        self._sources = sources
        self._order = order
        self._number = number

    def numbers(self, number: int, length: int) -> Numbers:
        """Sample numbers of the ``number``-th stretch of this length, sources well mixed by their shares."""
        shares = np.array([source.weight * _count(source.shards) for source in self._sources])
        counts = np.diff(np.rint(np.cumsum([0.0, *shares]) / shares.sum() * length).astype(np.int64))
        slots = np.repeat(np.arange(len(counts)), counts)
        np.random.default_rng([self._order.seed, self._number, number]).shuffle(slots)
        numbers = np.empty(length, dtype=np.int64)
        for source, count in enumerate(counts):
            numbers[slots == source] = self._source_draws(source, number * int(count), int(count))
        return numbers

    def _source_draws(self, source: int, start: int, count: int) -> Numbers:
        """Draws ``start`` to ``start + count`` of the endless sequence of passes over one source."""
        if count == 0:
            return np.empty(0, dtype=np.int64)
        shards = self._sources[source].shards
        size = _count(shards)
        first, last = start // size, (start + count - 1) // size
        seeds = ([self._order.seed, self._number, source, number] for number in range(first, last + 1))
        passes = [shuffled_pass(shards, self._order.shuffle_block, np.random.default_rng(seed)) for seed in seeds]
        return np.concatenate(passes)[start - first * size :][:count]


def shuffled_pass(shards: Sequence[Numbers], block: int, generator: np.random.Generator) -> Numbers:
    """Order the samples of one pass: shards shuffled, then samples within blocks of that sequence.

    Args:
        shards: Sample numbers of every shard.
        block: Samples of a block.
        generator: Source of randomness.

    Returns:
        Every sample number exactly once.
    """
    sequence = np.concatenate([shards[number] for number in generator.permutation(len(shards))])
    for start in range(0, len(sequence), block):
        generator.shuffle(sequence[start : start + block])
    return sequence


def _count(shards: Sequence[Numbers]) -> int:
    return sum(len(shard) for shard in shards)


class TrainingBatches:
    """One rank's part of an epoch's global batches, from where training stands.

    Args:
        stream: The stream of samples.
        batch_size: Samples of a global batch, over all ranks.
        rank: This process.
        world_size: Number of processes.
        samples_consumed: Tells how many samples the run has trained on; asked whenever an iteration starts.

    Raises:
        ValueError: The global batch cannot be split evenly over the ranks.
    """

    def __init__(
        self, stream: SampleStream, batch_size: int, rank: int, world_size: int, samples_consumed: Callable[[], int]
    ) -> None:
        if batch_size % world_size:
            raise ValueError(
                f"batch_size {batch_size} counts the samples of all ranks together and cannot be split over "
                f"{world_size} ranks; choose a multiple"
            )
        self._stream = stream
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        self._samples_consumed = samples_consumed

    def __len__(self) -> int:
        return self._stream.batches_per_epoch

    def __iter__(self) -> Iterator[list[Draw]]:
        start = self._samples_consumed()
        for step in range(len(self)):
            batch = self._stream.draws(start + step * self._batch_size, self._batch_size)
            yield batch[self._rank :: self._world_size]


class EvaluationBatches:
    """One rank's part of every sample exactly once, in order; equally many batches on every rank.

    Sizes of batches differ by at most one sample a rank. Nothing is padded: a repeated sample would be counted twice.

    Args:
        num_samples: Samples in all.
        batch_size: Samples of a global batch, over all ranks.
        rank: This process.
        world_size: Number of processes.

    Raises:
        ValueError: There are fewer samples than ranks. The ranks without one would leave the others waiting.
    """

    def __init__(self, num_samples: int, batch_size: int, rank: int, world_size: int) -> None:
        if num_samples < world_size:
            raise ValueError(f"{num_samples} samples cannot be judged on {world_size} ranks; use at most as many ranks")
        num_batches = min(-(-num_samples // batch_size), num_samples // world_size)
        batches = np.array_split(np.arange(num_samples), num_batches)
        self._batches = [[Draw(int(index), int(index)) for index in batch[rank::world_size]] for batch in batches]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self._batches)
