"""Made lengths of samples, and streams and batches over them: no shard, no media."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from datamodules.order.draws import MODALITIES, Cost, SampleTable
from datamodules.order.global_batches import GlobalBatches, global_batches
from datamodules.order.stream import SourceSamples
from datamodules.order.training_order import Draw, TrainingOrder

VIDEO, IMAGE, FEATURES, TEXT = range(len(MODALITIES))


def source(first: int, *sizes: int, weight: float = 1.0) -> SourceSamples:
    """A source whose shards have these sizes, numbered from ``first`` on."""
    bounds = np.cumsum([first, *sizes])
    return SourceSamples(tuple(np.arange(start, end) for start, end in pairwise(bounds)), weight)


def table(
    frames: Sequence[int], conversations: Sequence[int] | None = None, modality: Sequence[int] | None = None
) -> SampleTable:
    """Lengths of samples, by default videos with one conversation. Conversation ``i`` of all has ``10 + i`` tokens."""
    counts = np.ones(len(frames), dtype=np.int64) if conversations is None else np.array(conversations)
    return SampleTable(
        frames=np.array(frames, dtype=np.int64),
        modality=np.array([VIDEO] * len(frames) if modality is None else modality, dtype=np.int64),
        first_conversation=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        tokens=10 + np.arange(counts.sum()),
    )


def mixed_table(count: int, seed: int, *, num_conversations: int = 3) -> SampleTable:
    """Videos of 1 to 40 frames, images, features and text, with up to so many conversations each."""
    generator = np.random.default_rng(seed)
    modality = generator.choice([VIDEO, IMAGE, FEATURES, TEXT], count, p=[0.5, 0.2, 0.1, 0.2])
    frames = np.where(modality == IMAGE, 1, np.where(modality == TEXT, 0, generator.integers(1, 41, count)))
    made = table(frames.tolist(), generator.integers(1, num_conversations + 1, count).tolist(), modality.tolist())
    return made._replace(tokens=generator.integers(5, 100, len(made.tokens)))


def batches_of(
    *sources: SourceSamples,
    samples: SampleTable | None = None,
    order: TrainingOrder = TrainingOrder(),  # noqa: B008  frozen
    **options: Any,
) -> GlobalBatches:
    """Global batches over these sources, of one draw by default."""
    total = sum(len(shard) for one in sources for shard in one.shards)
    lengths = table([1] * total) if samples is None else samples
    sizes = {} if "budget" in options else {"batch_size": 1}
    settings: dict[str, Any] = {"cost": Cost(visual_tokens=0), "stated_frames": lengths.frames, **sizes, **options}
    return global_batches(sources, lengths, order, **settings)


def take(batches: GlobalBatches, start: int, num_batches: int) -> list[list[Draw]]:
    """The draws of so many batches after ``start`` draws."""
    return [draws for (draws, _), _ in zip(batches.after(start), range(num_batches), strict=False)]


def drawn(batches: GlobalBatches, start: int, count: int) -> list[Draw]:
    """The ``count`` draws after ``start`` draws."""
    found: list[Draw] = []
    for draws, _ in batches.after(start):
        found += draws
        if len(found) >= count:
            return found[:count]
    raise AssertionError("the batches have no end")


def numbers(batches: GlobalBatches, start: int, count: int) -> list[int]:
    """Their sample numbers."""
    return [draw.sample for draw in drawn(batches, start, count)]
