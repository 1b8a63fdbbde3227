"""A memory of one mean token a frame."""

from typing import NamedTuple

import torch
from torch import Tensor

from components.bridges.layers.projection import token_projection
from components.interfaces import Questions, SegmentInput, TokenPlaces, VisualReader, VisualTokens
from components.merging.neighbours import chosen_rows, most_similar, neighbour_cosine, with_entry, without_entry


class Carriers(NamedTuple):
    """The carriers of every video, in the order of time; real ones first."""

    tokens: Tensor  # [V, M, D]
    frame: Tensor  # [V, M] int64, position of the carrier's frame in its video
    ms: Tensor  # [V, M] int64, time of that frame
    num_real: Tensor  # [V] int64, real ones


class CarrierMemory(VisualReader[Carriers]):
    """Keeps one token a frame, the mean of its patches, and at most ``max_carriers`` of them.

    Where there would be more, the two neighbours with the highest cosine similarity are found, and the earlier one is
    dropped. So the state is of constant size, and the carriers that are left spread over what changes in the video. The
    cuts between segments change nothing.

    Args:
        dim: Width D of a patch.
        out_dim: Language model width E.
        max_carriers: Most carriers of a video.
        as_published: Drop a carrier as soon as there are ``max_carriers``, so that one fewer stays.

    Raises:
        ValueError: No carrier would be left.

    Source: VideoScan (arXiv:2503.09387), LyliAgave/VideoScan, llava/model/llava_arch.py and llava/video_streamer.py,
    commit 2c0f728. There carriers are entries of the language model's cache that have attended to their frame; here
    they are visual tokens. The repository's README states Apache-2.0, but there is no licence file; written from the
    description alone.
    """

    def __init__(self, dim: int, out_dim: int, *, max_carriers: int = 64, as_published: bool = False) -> None:
        super().__init__()
        self.num_left = max_carriers - 1 if as_published else max_carriers
        if self.num_left < 1:
            raise ValueError(f"max_carriers must be at least {2 if as_published else 1}, got {max_carriers}")
        self.projection = token_projection(dim, out_dim)

    def forward(self, segment: SegmentInput, state: Carriers | None) -> Carriers:
        """Add the carriers of one segment of every video; see ``VisualReader.forward``."""
        carriers = frame_carriers(segment.grid(self))
        if state is None:
            state = no_carriers(carriers, self.num_left)
        number, ms = segment.frame_number, segment.frame_ms
        for group, is_real in enumerate(segment.frame_mask.unbind(1)):
            state = with_carrier(state, carriers[:, group], number[:, group], ms[:, group], is_real)
        return state

    def read(self, state: Carriers, questions: Questions | None = None, *, budget: int | None = None) -> VisualTokens:
        """Project the carriers: ``[V, max_carriers, E]``."""
        mask = torch.arange(self.num_left, device=state.num_real.device) < state.num_real[:, None]
        fields = (state.frame, torch.full_like(state.frame, 0), state.ms)
        places = TokenPlaces(*(field.masked_fill(~mask, -1) for field in fields))
        return VisualTokens(self.projection(state.tokens), mask, places=places)


def frame_carriers(grid: Tensor) -> Tensor:
    """The carrier of every frame: the mean of its tokens, ``[..., N, D]`` to ``[..., D]``."""
    return grid.mean(dim=-2)


def no_carriers(like: Tensor, num_left: int) -> Carriers:
    """The empty memory for carriers like ``[V, ..., D]``."""
    num_videos, dim = like.shape[0], like.shape[-1]
    numbers = torch.zeros(num_videos, num_left, dtype=torch.int64, device=like.device)
    return Carriers(like.new_zeros(num_videos, num_left, dim), numbers, numbers, numbers[:, 0])


def with_carrier(state: Carriers, token: Tensor, frame: Tensor, ms: Tensor, is_real: Tensor) -> Carriers:
    """Add one carrier ``[V, D]`` to the videos where ``is_real [V]``; a full memory drops one."""
    stored = (state.tokens, state.frame, state.ms)
    num_left = state.frame.shape[1]
    longer = [
        with_entry(torch.cat([old, old[:, :1]], dim=1), state.num_real, new[:, None])
        for old, new in zip(stored, (token, frame, ms), strict=True)
    ]
    dropped = redundant_carrier(longer[0], state.num_real + 1)
    is_full = state.num_real >= num_left
    dropped = torch.where(is_full, dropped, num_left)  # the last slot is empty where the memory is not full
    left = [chosen_rows(is_real, without_entry(new, dropped), old) for new, old in zip(longer, stored, strict=True)]
    return Carriers(left[0], left[1], left[2], (state.num_real + is_real.long()).clamp(max=num_left))


def redundant_carrier(carriers: Tensor, count: Tensor) -> Tensor:
    """The earlier one of the most similar neighbours of carriers ``[V, M, D]``, ``[V]`` int64."""
    return most_similar(neighbour_cosine(carriers), count)
