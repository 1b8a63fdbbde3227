"""Groups the frames of a segment into events, and gives a few clusters of patches of each event on three levels."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from components.interfaces import KeptTokens, SegmentInput, SegmentReducer
from components.merging.density_peaks import Noise, cluster_means, density_peaks, memberships

_EVENT_NEIGHBOURS = 5
_LEVEL_NEIGHBOURS = (5, 3, 3)
_PUBLISHED_SMOOTHING = 1e-6


class Level(NamedTuple):
    """Clusters of patches, each the mean of its members."""

    tokens: Tensor  # [B, K, D]
    mask: Tensor  # [B, K] bool
    place: Tensor  # [B, K] int64, place of the patch in the middle of the cluster


class EventClusters(SegmentReducer[tuple[()]]):
    """Gives an event of several frames no more tokens than one frame: coarse and fine clusters of its patches.

    The frames of a segment are clustered by their mean patches: each cluster is an event, and need not be one run of
    frames. The patches of every frame are clustered, the clusters again, and those again: three levels. Then the
    clusters of all frames of an event are clustered together, level by level, to as many as one frame has. A token has
    the place of the patch in the middle of its cluster; tokens are in the order of places. How many tokens there are
    depends on the number of frames alone, so nothing waits for the device.

    Args:
        dim: Width of a patch, D; it stays.
        num_clusters: Clusters of an event on each of the levels, from fine to coarse. A frame with fewer patches has
            fewer on the first one.
        event_rate: Events for each frame of the segment, rounded up; a number above 1 is the number of events.
        as_published: Compute as the published code: a cluster's mean is slightly too small, and the frames of a segment
            of one or two frames are events of their own.

    Raises:
        ValueError: ``num_clusters`` is empty, grows, or has a number below 1; or ``event_rate`` is not positive.

    Source: Chat-UniVi (arXiv:2311.08046), PKU-YuanGroup/Chat-UniVi (Apache-2.0), ``ChatUniVi/model/cluster.py`` and
    ``arch.py: project``, commit ec0b3db, with clusters 64, 32, 16 and an event for every 16 frames. There events are
    found in the whole video, which needs its end; here in each segment. The published form is that of a video of one
    segment, with the tokens in another order (event, level, score). There ties are broken by random numbers.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_clusters: Sequence[int] = (64, 32, 16),
        event_rate: float = 0.0625,
        as_published: bool = False,
    ) -> None:
        super().__init__()
        counts = tuple(num_clusters)
        if not counts or min(counts) < 1 or list(counts) != sorted(counts, reverse=True):
            raise ValueError(f"num_clusters must be positive and not grow from level to level, got {list(counts)}")
        if event_rate <= 0:
            raise ValueError(f"event_rate must be positive, got {event_rate}")
        self.out_dim = dim
        self.num_clusters = counts
        self.event_rate = event_rate
        self.as_published = as_published

    def forward(self, segment: SegmentInput, state: tuple[()] | None) -> tuple[SegmentInput, tuple[()]]:
        """Cluster one segment of every video; see ``SegmentReducer.forward``.

        Raises:
            ValueError: Another reducer has left tokens out before.
        """
        grid = segment.grid(self)
        joined = joined_levels(self.event_levels(grid, segment.frame_mask))
        beyond = grid.shape[1] * grid.shape[2]
        order = joined.place.masked_fill(~joined.mask, beyond).argsort(dim=1, stable=True)
        tokens = joined.tokens.gather(1, order.unsqueeze(2).expand_as(joined.tokens))
        place, mask = joined.place.gather(1, order), joined.mask.gather(1, order)
        kept = KeptTokens(mask, place // grid.shape[2], place % grid.shape[2])
        saliency = None if segment.saliency is None else segment.saliency.gather(1, place)
        return segment._replace(tokens=tokens, kept=kept, saliency=saliency), ()

    def event_levels(self, grid: Tensor, frame_mask: Tensor, noise: Noise | None = None) -> list[Level]:
        """The levels of the first event of every video, then of the second, and so on; empty ones are masked.

        Args:
            grid: Patches of a segment, ``[V, L, N, D]``.
            frame_mask: Real frames, ``[V, L]`` bool.
            noise: See ``density_peaks``.
        """
        num_videos, length, num_cells, _ = grid.shape
        events, most_events = self._events(grid, frame_mask, noise)  # [V, L]
        of_frames = self.frame_levels(grid.flatten(0, 1), frame_mask.flatten(), noise)
        first_place = torch.arange(length, device=grid.device).mul(num_cells).repeat(num_videos).unsqueeze(1)
        of_frames = [level._replace(place=level.place + first_place) for level in of_frames]
        levels = []
        for event in range(most_events):
            of_event = ((events == event) & frame_mask).flatten().unsqueeze(1)
            for number, level in enumerate(of_frames):
                members = Level(level.tokens, level.mask & of_event, level.place)
                joined = Level(*(field.unflatten(0, (num_videos, length)).flatten(1, 2) for field in members))
                levels.append(self._clustered(joined, number, noise))
        return levels

    def frame_levels(self, frames: Tensor, is_real: Tensor, noise: Noise | None = None) -> list[Level]:
        """The levels of every frame ``[F, N, D]``; ``is_real [F]`` bool. A place is a cell of the frame."""
        cells = torch.arange(frames.shape[1], device=frames.device).expand(frames.shape[:2])
        levels = [Level(frames, is_real.unsqueeze(1).expand_as(cells), cells)]
        for number in range(len(self.num_clusters)):
            levels.append(self._clustered(levels[-1], number, noise))
        return levels[1:]

    def _events(self, grid: Tensor, frame_mask: Tensor, noise: Noise | None) -> tuple[Tensor, int]:
        """Event of every frame, ``[V, L]`` int64 in the order of their first frames, and the most events of a video."""
        length = frame_mask.shape[1]
        count = frame_mask.sum(dim=1)
        most = min(length, math.ceil(self.event_rate if self.event_rate > 1 else length * self.event_rate))
        wanted = torch.full_like(count, most)
        if self.event_rate <= 1:
            wanted = (count.double() * self.event_rate).ceil().long()
        if self.as_published:
            most = max(most, min(2, length))
            wanted = torch.where(count <= 2, count, wanted)
        means = grid.detach().float().mean(dim=2)
        neighbours = _neighbours(_EVENT_NEIGHBOURS, wanted)
        labels = density_peaks(means, frame_mask, wanted, neighbours, most=most, noise=noise).labels
        frames = torch.arange(length, device=grid.device)
        is_of = labels.unsqueeze(1) == torch.arange(most, device=grid.device).unsqueeze(1)  # [V, E, L]
        first = torch.where(is_of & frame_mask.unsqueeze(1), frames, length).amin(dim=2)
        order = first.argsort(dim=1, stable=True).argsort(dim=1)
        return order.gather(1, labels), most

    def _clustered(self, level: Level, number: int, noise: Noise | None) -> Level:
        count = self.num_clusters[number]
        most = min(count, level.mask.shape[1])
        wanted = level.mask.sum(dim=1).clamp(max=count)
        neighbours = _neighbours(_LEVEL_NEIGHBOURS[min(number, 2)], wanted)
        peaks = density_peaks(level.tokens, level.mask, wanted, neighbours, most=most, noise=noise)
        smoothing = _PUBLISHED_SMOOTHING if self.as_published else 0.0
        tokens = cluster_means(level.tokens, memberships(peaks, level.mask), smoothing)
        return Level(tokens, peaks.mask, level.place.gather(1, peaks.centres))


def joined_levels(levels: Sequence[Level]) -> Level:
    """Several levels, one after the other."""
    return Level(*(torch.cat(fields, dim=1) for fields in zip(*levels, strict=True)))


def _neighbours(wanted: int, num_clusters: Tensor) -> Tensor:
    """Neighbours that make the density: fewer where there are fewer clusters than that."""
    fewer = (num_clusters // 2).clamp(min=1, max=3)
    return torch.where(num_clusters < wanted, fewer, wanted)
