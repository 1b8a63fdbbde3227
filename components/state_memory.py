"""The memory that a stream's state holds while a video plays."""

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only


def without_spare_memory(state: Any, before: Any = None) -> Any:
    """Copy the tensors of a state that are views of larger ones, such as memory tokens of a segment.

    A long video leaves thousands of tensors in a tuple, and a segment adds one. So the entries that were there before
    are not looked at again: a reader only adds to a tuple where the last entry of before is still at its position.

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
        known = len(before) if isinstance(before, tuple) else 0
        if not 0 < known <= len(state) or state[known - 1] is not before[known - 1]:
            known = 0
        return state if known == len(state) else state[:known] + tuple(map(without_spare_memory, state[known:]))
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
