"""Key-value caches of transformers: copies that can grow apart, and rows that are selected, repeated or moved.

The rows of a batch have different lengths. They are padded on the left, so that a row's tokens are neighbours in the
cache. Then sliding windows, chunked attention and ALiBi, which count columns of the cache, are the same as without
padding. Tokens that are appended with padding on the right are moved afterwards (``rearranged``).
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

CacheFactory = Callable[[Any], Cache]
"""Makes an empty cache from the configuration of a Hugging Face model."""

_KNOWN_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)


def dynamic_cache(config: Any) -> Cache:
    """An empty cache that grows; layers with a sliding window store only the window."""
    return DynamicCache(config=config)


def forked(cache: Cache) -> Cache:
    """A copy that can grow without changing the original.

    The layers of ``DynamicCache`` replace their tensors when they grow, so these tensors are shared. Other layers may
    write into theirs, so these are copied.
    """
    fork = copy.copy(cache)
    fork.layers = [copy.copy(each) if type(each) in _KNOWN_LAYERS else copy.deepcopy(each) for each in cache.layers]
    return fork


def can_move_rows(cache: Cache) -> bool:
    """Whether ``rearranged`` can move rows: every layer stores one key and value a token.

    Layers with a recurrent state do not. Layers of unknown classes may not.
    """
    layer_types = [type(layer) for layer in cache.layers] or [cache.layer_class_to_replicate]  # made when needed
    return all(layer_type in _KNOWN_LAYERS for layer_type in layer_types)


def prepare_to_move_rows(cache: Cache) -> None:
    """Let layers with a sliding window store all new tokens, until ``rearranged`` has moved the rows.

    Raises:
        ValueError: The cache has layers whose rows cannot be moved.
    """
    if not can_move_rows(cache):
        classes = ", ".join(sorted({type(layer).__name__ for layer in cache.layers}))
        raise ValueError(
            f"conversations that read different numbers of tokens cannot share a cache with the layers {classes}; read "
            "and answer one conversation at a time"
        )
    for layer in cache.layers:
        if type(layer) is DynamicSlidingWindowLayer:
            layer.activate_past_recording()


def rearranged(cache: Cache, rows: Sequence[int], shifts: Sequence[int] | None = None, width: int = 0) -> Cache:
    """Select or repeat rows, and move each to the right over the padding at its end.

    Args:
        cache: Stays as it is.
        rows: Row of ``cache`` for every row of the result.
        shifts: Columns by which each row of the result moves; None if no row moves. Otherwise call
            ``prepare_to_move_rows`` before the tokens are read.
        width: Columns of the result: the last ones after moving. Read only with ``shifts``.
    """
    moved = forked(cache)
    index = torch.tensor(rows)
    if shifts is None:
        moved.reorder_cache(index)
        return moved
    for layer in moved.layers:
        if layer.get_seq_length():
            _move(layer, index.to(layer.keys.device), torch.tensor(shifts, device=layer.keys.device), width)
    return moved


def _move(layer: Any, rows: Tensor, shifts: Tensor, width: int) -> None:
    """Select and move the rows of one layer."""
    stored = layer.keys.shape[-2]
    columns = (torch.arange(stored, device=rows.device) - shifts[:, None]).clamp(min=0)  # [rows, stored]
    if type(layer) is DynamicSlidingWindowLayer:
        layer.cumulative_length = width
        layer.record_past = False
        width = min(width, layer.sliding_window - 1)
    columns = columns[:, stored - width :]
    # A view [rows, heads, columns, head width] of what is gathered with the columns first.
    layer.keys, layer.values = (
        states.transpose(1, 2)[rows[:, None], columns].transpose(1, 2) for states in (layer.keys, layer.values)
    )
