"""A memory of four parts: clusters of frames, an abstract summary, key frames and the newest frame."""

from typing import NamedTuple

import torch
from torch import Tensor

from components.bridges.layers.attention_update import AttentionUpdate
from components.bridges.layers.projection import token_projection
from components.interfaces import Questions, SegmentInput, VisualReader, VisualTokens
from components.merging.neighbours import chosen_rows
from components.merging.weighted_kmeans import nearest, weighted_kmeans
from components.pooling.patch_pooling import GridPooling


class FlashMemoryState(NamedTuple):
    """State after some segments."""

    centroids: Tensor  # [V, K, n, D] clusters of frames at a low resolution
    weights: Tensor  # [V, K] float32, frames of each cluster; 0 for none
    frames: Tensor  # [V, K, N', D] for each cluster the stored frame nearest to it
    abstract: Tensor  # [V, A, D] summary vectors
    num_abstract: Tensor  # [V] int64, summary vectors that are in use; these come first
    newest: Tensor  # [V, N', D] the last frame
    has_newest: Tensor  # [V] bool


class FlashMemory(VisualReader[FlashMemoryState]):
    """Remembers a video as clusters of small frames, a few summary vectors, a few key frames and the newest frame.

    - Clusters: all frames but the newest, at a low resolution, in at most ``long_length`` weighted means. After each
      segment the old clusters and its frames are clustered again; an old cluster weighs as many frames as it stands
      for.
    - Summary: vectors that move a little towards every new frame, by attention. The first frames start them.
    - Key frames: the frames nearest to the largest clusters, at a high resolution.
    - Newest frame, at a high resolution.

    The language model sees them in the order summary, clusters, key frames, newest frame. The state is of constant
    size, so for each cluster one frame is stored: the nearest one among those stored before and the new ones. A search
    over all frames of the video could find a nearer one.

    Args:
        dim: Width D of a patch; frames are square grids.
        out_dim: Language model width E.
        long_length: Most clusters K.
        long_grid: Side of the frames that are clustered.
        abstract_length: Summary vectors A.
        num_keys: Key frames, at most ``long_length``.
        detail_grid: Side of key frames and of the newest frame.
        hidden: Width in which summary and frames are compared.
        update_ratio: Share of the summary that a segment replaces.

    Raises:
        ValueError: A number is below 1, there are more key frames than clusters, or ``update_ratio`` is not in 0..1.

    Source: Flash-VStream (arXiv:2406.08085), IVGSZ/Flash-VStream (Apache-2.0), Flash-VStream-LLaVA, commit 8f6bde2. As
    in the paper, and unlike the code, key frames are those nearest to the largest clusters (the code takes the frames
    whose numbers are the clusters' ranks, from a store of all frames), and old clusters keep their weights. Where
    clusters start does not depend on chance. The summary reads all new frames of a segment at once, the code in groups
    of A.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        long_length: int = 25,
        long_grid: int = 4,
        abstract_length: int = 25,
        num_keys: int = 3,
        detail_grid: int = 8,
        hidden: int = 32,
        update_ratio: float = 0.2,
    ) -> None:
        super().__init__()
        if min(long_length, abstract_length, num_keys) < 1:
            raise ValueError(
                "long_length, abstract_length and num_keys must be at least 1, got "
                f"{long_length}, {abstract_length} and {num_keys}"
            )
        if num_keys > long_length:
            raise ValueError(
                f"a key frame belongs to a cluster: num_keys {num_keys} is more than {long_length} clusters"
            )
        self.long_length = long_length
        self.abstract_length = abstract_length
        self.num_keys = num_keys
        self.long_pooling = GridPooling(dim, grid=long_grid)
        self.detail_pooling = GridPooling(dim, grid=detail_grid)
        self.summarise = AttentionUpdate(dim, hidden=hidden, update_ratio=update_ratio)
        self.projection = token_projection(dim, out_dim)

    def forward(self, segment: SegmentInput, state: FlashMemoryState | None) -> FlashMemoryState:
        """Read one segment of every video; see ``VisualReader.forward``."""
        grid = segment.grid(self).masked_fill(~segment.frame_mask[..., None, None], 0.0)
        detail = self._pooled(self.detail_pooling, grid)
        if state is None:
            state = self._start(detail)
        detail = torch.cat([state.newest[:, None], detail], dim=1)
        mask = torch.cat([state.has_newest[:, None], segment.frame_mask], dim=1)
        last = (torch.arange(mask.shape[1], device=mask.device) * mask).amax(dim=1)  # [V]
        is_past = mask & segment.frame_mask.any(dim=1, keepdim=True)
        is_past = is_past.scatter(1, last[:, None], False)
        newest = detail.gather(1, last[:, None, None, None].expand(-1, 1, *detail.shape[2:])).squeeze(1)
        centroids, weights, frames = self._clustered(state, detail, is_past)
        abstract, num_abstract = self._summarised(state, detail.mean(dim=2), is_past)
        has_newest = state.has_newest | segment.frame_mask.any(dim=1)
        return FlashMemoryState(centroids, weights, frames, abstract, num_abstract, newest, has_newest)

    def read(
        self, state: FlashMemoryState, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Project summary, clusters, key frames and newest frame: ``[V, Q, E]``."""
        weights, heaviest = state.weights.sort(dim=1, descending=True, stable=True)
        heaviest, is_key = heaviest[:, : self.num_keys], weights[:, : self.num_keys] > 0
        keys = state.frames.gather(1, heaviest[:, :, None, None].expand(-1, -1, *state.frames.shape[2:]))
        is_used = torch.arange(self.abstract_length, device=weights.device) < state.num_abstract[:, None]
        shown = (
            (state.abstract[:, :, None], is_used),
            (state.centroids, state.weights > 0),
            (keys, is_key),
            (state.newest[:, None], state.has_newest[:, None]),
        )
        tokens = torch.cat([part.flatten(1, 2) for part, _ in shown], dim=1)
        mask = torch.cat([mask.repeat_interleave(part.shape[2], dim=1) for part, mask in shown], dim=1)
        return VisualTokens(self.projection(tokens), mask)

    def _start(self, detail: Tensor) -> FlashMemoryState:
        num_videos, dim = len(detail), detail.shape[3]
        frames = detail.new_zeros(num_videos, self.long_length, *detail.shape[2:])
        weights = torch.zeros(num_videos, self.long_length, device=detail.device)
        abstract = detail.new_zeros(num_videos, self.abstract_length, dim)
        none = torch.zeros(num_videos, dtype=torch.int64, device=detail.device)
        centroids = self._pooled(self.long_pooling, frames)
        return FlashMemoryState(centroids, weights, frames, abstract, none, frames[:, 0], none.bool())

    def _clustered(self, state: FlashMemoryState, detail: Tensor, is_past: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Clusters after new frames ``[V, L, N', D]``, their weights, and the stored frame nearest to each."""
        small = self._pooled(self.long_pooling, detail)
        weights = torch.cat([state.weights, is_past.float()], dim=1)
        clusters = weighted_kmeans(torch.cat([state.centroids, small], dim=1).flatten(2), weights, self.long_length)
        candidates = torch.cat([state.frames, detail], dim=1)
        places = torch.cat([self._pooled(self.long_pooling, state.frames), small], dim=1).flatten(2)
        chosen = nearest(clusters.centroids, places, weights > 0)
        frames = candidates.gather(1, chosen[:, :, None, None].expand(-1, -1, *candidates.shape[2:]))
        has_new = is_past.any(dim=1)
        new = (clusters.centroids.unflatten(2, small.shape[2:]), clusters.weights, frames)
        old = (state.centroids, state.weights, state.frames)
        centroids, sizes, stored = (chosen_rows(has_new, one, other) for one, other in zip(new, old, strict=True))
        return centroids, sizes, stored

    def _summarised(self, state: FlashMemoryState, vectors: Tensor, is_past: Tensor) -> tuple[Tensor, Tensor]:
        """The summary after new frames ``[V, L, D]``, and how many of its vectors are in use."""
        is_used = torch.arange(self.abstract_length, device=is_past.device) < state.num_abstract[:, None]
        order = (~torch.cat([is_used, is_past], dim=1)).byte().argsort(dim=1, stable=True)
        joined = torch.cat([state.abstract, vectors], dim=1)
        joined = joined.gather(1, order[..., None].expand_as(joined))
        count = state.num_abstract + is_past.sum(dim=1)
        memory, rest = joined.split_with_sizes([self.abstract_length, vectors.shape[1]], dim=1)
        is_rest = self.abstract_length + torch.arange(vectors.shape[1], device=count.device) < count[:, None]
        return self.summarise(memory, rest, is_rest), count.clamp(max=self.abstract_length)

    @staticmethod
    def _pooled(pooling: GridPooling, grid: Tensor) -> Tensor:
        """Every frame of ``[V, L, N, D]`` pooled."""
        pooled: Tensor = pooling(grid.flatten(0, 1)).unflatten(0, grid.shape[:2])
        return pooled
