"""The grid memory of the Memory-Augmented VLM, computed as in its code: one video at a time, with all its extra work.

It takes the weights of a ``GridMemory`` and gives the same numbers. As in that code, attention weights are stored; all
memories of the cache are projected to keys and values again before each segment; and every frame of a segment gets a
score, which nothing reads: the last layer's attention to it, summed over heads and queries.

Source: the Memory-Augmented VLM code, commit 437dbe3. Written from a description of it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  the name every torch user knows
from torch import Tensor

from components.bridges.grid_memory import GridMemory
from components.positions import interleaved_sinusoid

SEGMENT_FRAMES = 32


class SegmentStep(NamedTuple):
    """What the original computes of one segment. N cells of a frame, M memory tokens, each a grid of N vectors."""

    updated_query: Tensor | None  # [M * N, D] after attending to the cache; None at the first segment
    memory: Tensor  # [M * N, D] after attending to the segment's frames
    frame_scores: Tensor  # [F]


class _Attended(NamedTuple):
    normed: Tensor  # [Q, D]
    weights: Tensor  # [heads, Q, P]


def read_one_video(reader: GridMemory, patches: Tensor) -> Tensor:
    """Visual tokens that the language model gets of a video.

    Args:
        reader: Has the weights.
        patches: Pooled patches of the frames, ``[T, N, D]``.

    Returns:
        Tokens of all memories of the cache, ``[1, K * M * N, D]``.
    """
    if reader.options.frame_positions:
        numbers = torch.arange(len(patches), device=patches.device)
        patches = patches + interleaved_sinusoid(numbers, patches.shape[2])[:, None].to(patches.dtype)
    steps = run_segments(reader, patches.split(SEGMENT_FRAMES))
    shown = torch.cat([step.memory for step in steps[-reader.cache_limit :]])[None]
    if reader.fuser is not None:
        shown = reader.fuser(shown, None)
    return shown if reader.type_embedding is None else reader.type_embedding(shown)


def run_segments(reader: GridMemory, segments: Sequence[Tensor]) -> list[SegmentStep]:
    """Run the recurrence over the segments of one video, each ``[F, N, D]``; positions of frames are added before."""
    cache: list[Tensor] = []
    steps: list[SegmentStep] = []
    for segment in segments:
        updated_query = None
        memory = (reader.initial_memory + reader.memory_positions).flatten(0, 1)
        if cache:
            updated_query = _attend(reader.update, cache[-1], torch.cat(cache), reader.update.num_heads).normed
            memory = updated_query
        for layer in reader.layers:
            block: Any = layer
            attended = _attend(block.attention, memory, segment.flatten(0, 1), reader.update.num_heads)
            memory = _feed_forward(block.feed_forward, attended.normed)
        of_keys = attended.weights.sum(dim=(0, 1))
        scores = of_keys.unflatten(0, segment.shape[:2]).mean(dim=1)
        cache = [*cache, memory][-reader.cache_limit :]
        steps.append(SegmentStep(updated_query, memory, scores))
    return steps


def _attend(attention: Any, queries: Tensor, context: Tensor, num_heads: int) -> _Attended:
    projected = attention.query(queries), attention.key(context), attention.value(context)
    q, k, v = (each.unflatten(-1, (num_heads, -1)).transpose(0, 1) for each in projected)
    weights = (torch.matmul(q, k.transpose(-1, -2)) / q.shape[-1] ** 0.5).softmax(dim=-1)
    mixed = torch.matmul(weights, v).transpose(0, 1).flatten(1)
    return _Attended(attention.norm(attention.output(mixed) + queries), weights)


def _feed_forward(part: Any, tokens: Tensor) -> Tensor:
    normed: Tensor = part.norm(part.contract(F.relu(part.expand(tokens))) + tokens)
    return normed
