"""Tuples with an entry for every segment that stay cheap to extend when a video plays for hours.

A state is never changed: a segment makes a new tuple with one entry more, which copies a reference to all entries
before. After hours that costs as much as reading the segment. So a streamed state has groups of entries in its tuples,
which are copied by one reference each.
"""

from typing import Any

from torch import Tensor

from components.interfaces import MemoryState

GROUP = 64
_FIELDS = ("cache", "cache_mask", "admitted", "cache_ms", "gate_logits", "pruned")


def in_groups(state: MemoryState) -> MemoryState:
    """The state with its older entries in groups; ``flat`` undoes it."""
    grouped: dict[str, Any] = {name: _in_groups(getattr(state, name)) for name in _FIELDS}
    return state._replace(**grouped)


def flat(state: MemoryState) -> MemoryState:
    """The state with an entry for every segment in its tuples, without groups."""
    entries: tuple[Any, ...] = state.cache
    if not entries or not isinstance(entries[0], tuple):
        return state
    flattened: dict[str, Any] = {name: _flat(getattr(state, name)) for name in _FIELDS}
    return state._replace(**flattened)


def _in_groups(entries: tuple[Any, ...]) -> tuple[Any, ...]:
    first = sum(isinstance(entry, tuple) for entry in entries)  # groups are in front
    if len(entries) - first < 2 * GROUP:
        return entries
    return _in_groups((*entries[:first], entries[first : first + GROUP], *entries[first + GROUP :]))


def _flat(entries: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return tuple(one for entry in entries for one in (entry if isinstance(entry, tuple) else (entry,)))
