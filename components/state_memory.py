"""The memory that a stream's state holds while a video plays."""

from itertools import zip_longest
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only


def without_spare_memory(state: Any, before: Any = None) -> Any:
    """Copy the tensors of a state that are views of larger ones, such as memory tokens of a segment.

    A long video leaves many tensors in a tuple, and a segment adds one. Entries that were there before are not looked
    at again.

    Args:
        state: A tensor, or tuples and other containers of tensors.
        before: The state one call earlier, whose tensors are no such views; None at the start.

    Returns:
        The state. Tensors that fill their memory are those that were given.
    """
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        fields = before if isinstance(before, type(state)) else [None] * len(state)
        return type(state)(*map(without_spare_memory, state, fields))
    if isinstance(state, tuple):
        known = before if isinstance(before, tuple) else ()
        is_new = (each is not other for each, other in zip_longest(state, known[: len(state)]))
        return tuple(without_spare_memory(each) if new else each for each, new in zip(state, is_new, strict=True))
    return tree_map_only(Tensor, _copied_if_view, state)


def tensor_bytes(*states: Any) -> int:
    """Bytes of memory that the tensors of states hold; memory that several share counts once."""
    storages = {}
    for tensor in tree_leaves(states):
        if isinstance(tensor, Tensor):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _copied_if_view(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor
