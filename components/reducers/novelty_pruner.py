"""Keeps the patches of every frame that are least like the video so far and least like the rest of their frame."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from components.interfaces import SegmentInput, SegmentReducer
from components.reducers.token_choice import keep_tokens

_WIDTHS = tuple(2.0**power for power in range(-3, 2))


class NoveltyState(NamedTuple):
    """The mean of the segments so far."""

    total: Tensor  # [V, D] float32, sum of the means of all segments; as published, of half of the channels
    number: Tensor  # [V] float32, segments so far


class NoveltyPruner(SegmentReducer[NoveltyState]):
    """Keeps the patches of every frame that are unlike the video so far and unlike the rest of their frame.

    Patches are compared on the channels that vary least in the segment: there, what differs stands out. The memory is
    the mean of all segments. What is kept stays unchanged and in order. The number of tokens is known before, so
    nothing waits for the device.

    Args:
        dim: Width of a patch, D; it stays.
        rate: Share of the patches of a frame that is kept, rounded down, but at least one.
        channels: Share of the channels that patches are compared on, rounded down, but at least one.
        as_published: Compute as the published code, which adds up the means of the chosen channels although every
            segment chooses others, so that the memory mixes channels.

    Raises:
        ValueError: ``rate`` or ``channels`` is not above 0 and at most 1.

    Source: the pruner of STC (arXiv:2512.00891), lern-to-write/STC, ``STC_Pruner.compress``, commit 9b13ce0, with 60 of
    196 patches and half of the channels; the repository has no licence file, so this is written from a description. A
    chunk there is a segment here. Its history is never cleared between videos; here each has its own.
    """

    def __init__(self, dim: int, *, rate: float = 0.3, channels: float = 0.5, as_published: bool = False) -> None:
        super().__init__()
        for name, value in (("rate", rate), ("channels", channels)):
            if not 0.0 < value <= 1.0:
                raise ValueError(f"{name} must be above 0 and at most 1, got {value}")
        self.out_dim = dim
        self.rate = rate
        self.num_channels = max(1, int(dim * channels + 1e-6))
        self.as_published = as_published

    def forward(self, segment: SegmentInput, state: NoveltyState | None) -> tuple[SegmentInput, NoveltyState]:
        """Keep tokens of one segment of every video; see ``SegmentReducer.forward``.

        Raises:
            ValueError: Another reducer has left tokens out before.
        """
        grid = segment.grid(self).detach().float()  # [V, L, N, D]
        num_videos, length, num_cells, dim = grid.shape
        if state is None:
            width = self.num_channels if self.as_published else dim
            state = NoveltyState(grid.new_zeros(num_videos, width), grid.new_zeros(num_videos))
        real = segment.frame_mask
        mean, chosen = steady_channels(grid, real, self.num_channels)
        has = real.any(dim=1)
        added = mean.gather(1, chosen) if self.as_published else mean
        total = torch.where(has[:, None], state.total + added, state.total)
        after = NoveltyState(total, state.number + has)
        memory = total / after.number.clamp(min=1)[:, None]
        if not self.as_published:
            memory = memory.gather(1, chosen)
        compared = grid.gather(3, chosen[:, None, None].expand(-1, length, num_cells, -1))
        familiar = familiarity(compared, memory)
        few = max(1, int(num_cells * self.rate + 1e-6))
        rank = familiar.argsort(dim=2, stable=True).argsort(dim=2)
        kept = (rank < few) & real.unsqueeze(2)
        return keep_tokens(segment, kept.flatten(1), length * few), after


def steady_channels(grid: Tensor, frame_mask: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The mean of a segment, and the channels that vary least in it.

    Args:
        grid: Patches, ``[V, L, N, D]`` float32.
        frame_mask: Real frames, ``[V, L]`` bool.
        number: Channels to choose.

    Returns:
        ``[V, D]`` and ``[V, number]`` int64, the steadiest first.
    """
    weight = frame_mask[:, :, None, None].to(grid.dtype)
    count = (weight.sum(dim=(1, 2)) * grid.shape[2]).clamp(min=1)  # [V, 1]
    mean = (grid * weight).sum(dim=(1, 2)) / count
    variance = ((grid - mean[:, None, None]).square() * weight).sum(dim=(1, 2)) / count
    return mean, variance.argsort(dim=1, stable=True)[:, :number]


def familiarity(grid: Tensor, memory: Tensor) -> Tensor:
    """How much every patch is like the memory and like its frame.

    Args:
        grid: Patches, ``[V, L, N, C]``.
        memory: ``[V, C]``.

    Returns:
        ``[V, L, N]``, larger for a patch that is more familiar.
    """
    normed = functional.normalize(grid, dim=3)
    to_memory = (normed - functional.normalize(memory, dim=1)[:, None, None]).square().sum(dim=3)
    to_frame = (normed - normed.mean(dim=2, keepdim=True)).square().sum(dim=3)
    scores = [(-distance / (2.0 * width)).exp() for distance in (to_memory, to_frame) for width in _WIDTHS]
    return torch.stack(scores).sum(dim=0)
