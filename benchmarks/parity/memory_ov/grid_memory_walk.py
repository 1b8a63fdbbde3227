"""Runs a grid memory over the segments of videos of different length, and stores what it computes on the way."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from components.bridges.grid_memory import GridMemory
from components.bridges.grid_memory_state import GridMemoryState
from components.interfaces import SegmentInput


class Walk(NamedTuple):
    """What a grid memory computes of V videos. B is the number of vectors of a memory."""

    states: list[GridMemoryState]  # after each segment
    updated_queries: list[Tensor | None]  # [V, B, D] each: the newest memory after attending to the cache

    def written(self, segment: int) -> Tensor:
        """Memory after a segment, ``[V, B, D]``."""
        return self.states[segment].memories[-1]

    def cache(self, video: int) -> Tensor:
        """All memories of a video's cache after the last segment, the oldest first, ``[memories * B, D]``."""
        state = self.states[-1]
        mask = state.memory_mask
        present = [memory[video] for place, memory in enumerate(state.memories) if mask is None or mask[video, place]]
        return torch.cat(present)


def walk(reader: GridMemory, videos: Sequence[Sequence[Tensor]]) -> Walk:
    """Run the reader over all segments, ``[F, N, D]`` each, of all videos at once."""
    states: list[GridMemoryState] = []
    queries: list[Tensor | None] = []
    seen: list[Tensor] = []

    def record(module: nn.Module, given: Any, updated: Tensor) -> None:
        seen.append(updated)

    hook = reader.update.register_forward_hook(record)
    try:
        for step in range(max(map(len, videos))):
            seen.clear()
            states.append(reader(_segment(videos, step), states[-1] if states else None))
            num_vectors = states[-1].newest.shape[1]
            # The first segment has no cache to attend to.
            complete = [each for each in seen if each.shape[1] == num_vectors] if step else []
            queries.append(complete[-1] if complete else None)
    finally:
        hook.remove()
    return Walk(states, queries)


def _segment(videos: Sequence[Sequence[Tensor]], step: int) -> SegmentInput:
    """One segment of every video, padded to the longest; a video without it is masked."""
    some = videos[0][0]
    own = [video[step] if step < len(video) else some[:0] for video in videos]
    longest = max(map(len, own))
    patches = torch.stack([torch.cat([each, each.new_zeros(longest - len(each), *each.shape[1:])]) for each in own])
    mask = torch.arange(longest) < torch.tensor([len(each) for each in own])[:, None]
    return SegmentInput.from_grid(patches, mask, torch.zeros(mask.shape, dtype=torch.int64))
