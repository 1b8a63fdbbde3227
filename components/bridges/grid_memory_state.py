"""The state of a grid memory: the memories after the last segments, with their keys and values."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from components.bridges.layers.cross_attention import KeysAndValues


class GridMemoryState(NamedTuple):
    """State of a grid memory after some segments. B is the number of vectors of a memory, M * N.

    The cache has at most ``cache_limit`` memories, the oldest first, and an entry of ``memories``, ``keys`` and
    ``values`` for each. States share these tensors. A step copies them only where it drops one of them while not all
    videos are known to have all segments.
    """

    newest: Tensor  # [V, B, D] memory after the last real segment of every video
    memories: tuple[Tensor, ...]  # [V, B, D] each
    keys: tuple[Tensor, ...]  # [V, B, D] each
    values: tuple[Tensor, ...]  # [V, B, D] each
    masks: tuple[Tensor, ...]  # [V] bool each, videos that have the memory; empty: all are known to have all
    since_cut: Tensor  # [V, C] bool: C segments since gradients were cut; the host knows only its size

    @classmethod
    def start(cls, initial: Tensor) -> "GridMemoryState":
        """State before the first segment, from the initial memory ``[V, B, D]``."""
        return cls(initial, (), (), (), (), initial.new_zeros(len(initial), 0, dtype=torch.bool))

    @property
    def memory_mask(self) -> Tensor | None:
        """Which videos have which memory, ``[V, memories]`` bool; None: all have all."""
        return torch.stack(self.masks, dim=1) if self.masks else None

    def with_segment(
        self, written: Tensor, projected: KeysAndValues, active: Tensor, *, is_in_all: bool, cache_limit: int
    ) -> "GridMemoryState":
        """Add the memory after a segment to the cache of the videos that have the segment.

        Args:
            written: Memory after the segment, ``[V, B, D]``.
            projected: Its keys and values.
            active: Videos that have the segment, ``[V]`` bool.
            is_in_all: Whether these are known to be all videos.
            cache_limit: Most memories in the cache; each video drops its oldest one.
        """
        masks = self.masks
        if not is_in_all:
            masks = (masks or tuple(torch.ones_like(active) for _ in self.memories)) + (active,)
        elif masks:
            masks = (*masks, active)
        grown = GridMemoryState(
            newest=written if is_in_all else _where(active, written, self.newest),
            memories=(*self.memories, written),
            keys=(*self.keys, projected.keys),
            values=(*self.values, projected.values),
            masks=masks,
            since_cut=self.since_cut,
        )
        return grown._without_oldest() if len(grown.memories) > cache_limit else grown

    def cut_gradients(
        self, active: Tensor, project: Callable[[Tensor], KeysAndValues], unused: Tensor, *, is_in_all: bool
    ) -> "GridMemoryState":
        """The same values, without the graph of earlier segments in the videos that have the next segment.

        Args:
            active: Videos that have the next segment, ``[V]`` bool.
            project: Gives keys and values of a memory. They are computed again, so that its weights still train.
            unused: The initial memory ``[B, D]``. It is added times zero: a parameter that some batch leaves out of the
                graph would stop a run under DDP and ZeRO.
            is_in_all: Whether these are known to be all videos.
        """

        def cut(tensor: Tensor) -> Tensor:
            return tensor.detach() if is_in_all else _where(active, tensor.detach(), tensor)

        memories = tuple(map(cut, self.memories))
        projected = [project(memory) for memory in memories]
        return self._replace(
            newest=cut(self.newest) + 0.0 * unused,
            memories=memories,
            keys=tuple(each.keys for each in projected),
            values=tuple(each.values for each in projected),
            since_cut=self.since_cut[:, :0],
        )

    def counted(self) -> "GridMemoryState":
        """The state with one more segment since gradients were cut."""
        num_videos, num_segments = self.since_cut.shape
        return self._replace(since_cut=self.since_cut.new_ones(num_videos, num_segments + 1))

    def _without_oldest(self) -> "GridMemoryState":
        """Drop from each video an entry that it does not have, or else its oldest memory."""
        if not self.masks:
            return self._replace(memories=self.memories[1:], keys=self.keys[1:], values=self.values[1:])
        dropped = (~torch.stack(self.masks, dim=1)).int().argmax(dim=1)  # [V]; 0 if there is no such entry

        def shifted(entries: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            pairs = enumerate(pairwise(entries))
            return tuple(_where(dropped <= index, later, earlier) for index, (earlier, later) in pairs)

        return self._replace(
            memories=shifted(self.memories),
            keys=shifted(self.keys),
            values=shifted(self.values),
            masks=shifted(self.masks),
        )


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Rows of ``one`` where ``chosen [V]``, rows of ``other`` elsewhere."""
    return torch.where(chosen.view(-1, *[1] * (one.ndim - 1)), one, other)
