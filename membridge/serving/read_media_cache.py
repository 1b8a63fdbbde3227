"""Remembers media that the model has read, so that a next question about them reads nothing again."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from membridge.opened_medium import OpenedMedium


class ReadMediaCache:
    """Media that were read lately, within a bound of memory. Safe for threads.

    Args:
        max_bytes: Memory for what the model keeps of them; frames are not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._media: OrderedDict[Hashable, tuple[OpenedMedium, int]] = OrderedDict()
        self._used = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> OpenedMedium | None:
        """A medium by its key, if it is remembered."""
        with self._lock:
            found = self._media.get(key)
            if found is None:
                return None
            self._media.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, medium: OpenedMedium) -> OpenedMedium:
        """Remember a medium, in place of those that were not used for the longest time.

        Returns:
            The medium without its frames.
        """
        medium = medium._replace(frames=medium.frames.new_empty(0))
        size = num_bytes(medium)
        with self._lock:
            if key not in self._media and size <= self._max_bytes:
                self._media[key] = medium, size
                self._used += size
            while self._used > self._max_bytes:
                _, (_, freed) = self._media.popitem(last=False)
                self._used -= freed
        return medium


def num_bytes(value: Any) -> int:
    """Memory of all tensors in a nested value; those that share memory count once."""
    storages = {}
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            storage = leaf.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
