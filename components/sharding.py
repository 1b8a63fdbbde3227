"""How parts and strategies that shard weights work together, and all code of the project about sharded tensors.

A strategy that spreads every weight over the ranks announces itself while the parts are built (``building_sharded``). A
part that loads large weights hands them over as soon as it has them (``hand_to_sharding``). Later it calls its sharded
modules equally often on every rank: each call gathers weights from all ranks, so a rank that makes one call more than
the others waits for ever.

Two forms of sharded tensors exist: FSDP2 makes them ``DTensor``s; ZeRO-3 leaves an empty tensor with attributes
``ds_*``. ZeRO-1 and 2 shard gradients only. Other modules ask the functions below, never these attributes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


class Sharding(ABC):
    """What a strategy that shards weights does for the parts.

    Attributes:
        nested_checkpoints: Whether activation checkpoints may be nested: a call that is computed again in backward may
            contain calls that are computed again too.
    """

    nested_checkpoints: bool = True

    @abstractmethod
    def shard(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        """Reduce every weight to this rank's share, in place.

        At most one block of the model is complete in memory at any time.

        Args:
            model: Its weights are equal on all ranks.
            dtype: Dtype that its weights are converted to; None leaves each as it is.
        """

    @abstractmethod
    def largest_of_all_ranks(self, value: int) -> int:
        """The largest value of all ranks; every rank must call it."""


class SkipsUnusedCompute:
    """A module whose ``forward`` may save work where the batch allows it.

    It leaves out of the graph what would change nothing, or reads weights of its submodules instead of calling them.

    A strategy that gathers weights for each call, also in backward, forbids this. The weights would be missing. And if
    only some ranks' batches allow to skip a call, the ranks gather at different times and wait for each other for ever.

    Attributes:
        may_skip_unused_compute: Whether it may.
    """

    may_skip_unused_compute: bool = True


_active: ContextVar[Sharding | None] = ContextVar("sharding", default=None)


@contextmanager
def building_sharded(sharding: Sharding) -> Iterator[None]:
    """Let the parts that are built in this context hand their weights to a strategy."""
    token = _active.set(sharding)
    try:
        yield
    finally:
        _active.reset(token)


def active_sharding() -> Sharding | None:
    """The strategy that shards what is being built now, if there is one."""
    return _active.get()


def hand_to_sharding(model: nn.Module, dtype: torch.dtype) -> Sharding | None:
    """Hand weights that were just loaded to the active strategy, and convert them to the dtype in which they are used.

    Under a strategy that shards, load weights in the dtype of their file: then they are only mapped into memory, and
    each is read when the rank takes its share. Without such a strategy they already have ``dtype`` and nothing happens.

    Args:
        model: The complete model: weights that are added later would not be sharded.
        dtype: Dtype of the weights.

    Returns:
        The strategy, if one shards.
    """
    sharding = active_sharding()
    if sharding is not None:
        sharding.shard(model, dtype)
    return sharding


def is_sharded(part: nn.Module) -> bool:
    """Whether calling the part gathers weights from all ranks, so that no rank may call it alone."""
    return any(is_zero3_sharded(parameter) or is_dtensor(parameter) for parameter in part.parameters())


def is_zero3_sharded(parameter: object) -> bool:
    """Whether DeepSpeed's ZeRO-3 has sharded a parameter; between calls its tensor is empty."""
    return hasattr(parameter, "ds_id")


def is_dtensor(tensor: object) -> TypeGuard[DTensor]:
    """Whether a tensor is distributed over ranks as FSDP2 does it."""
    return isinstance(tensor, DTensor)


def whole_shape(tensor: Tensor) -> torch.Size:
    """Shape of a tensor before it was sharded."""
    shape: torch.Size = getattr(tensor, "ds_shape", tensor.shape)
    return shape


def zero3_share(parameter: object) -> Tensor | None:
    """This rank's share of a parameter that ZeRO-3 has sharded, flat, maybe with padding; None for any other."""
    share: Tensor | None = getattr(parameter, "ds_tensor", None)
    return share


def compute_device(weight: Tensor) -> torch.device:
    """The device on which a weight is used: FSDP2 may keep its shards elsewhere."""
    return torch.device(weight.device_mesh.device_type) if is_dtensor(weight) else weight.device


def local_part(tensor: Tensor) -> Tensor:
    """The part of a ``DTensor`` on this rank; any other tensor as it is."""
    return tensor.to_local() if is_dtensor(tensor) else tensor


def local_slices(tensor: DTensor) -> tuple[slice, ...]:
    """The position of ``local_part`` in the full tensor, one slice a dimension."""
    shape, start = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(slice(first, first + length) for first, length in zip(start, shape, strict=True))


def gathered(tensor: Tensor, device: torch.device) -> Tensor:
    """The full tensor of a ``DTensor``, gathered on a device; any other tensor as it is. Every rank must call it."""
    if not is_dtensor(tensor):
        return tensor
    moved: Any = tensor.to(device)
    full: Tensor = moved.full_tensor()
    return full


def num_shards(tensor: DTensor) -> int:
    """How many ranks hold different parts of a tensor; ranks with the same part count once."""
    count = 1
    for dimension, placement in enumerate(tensor.placements):
        count *= 1 if placement.is_replicate() else tensor.device_mesh.size(dimension)
    return count


class LocalGradient(NamedTuple):
    """What a rank has of a parameter's gradient, after the ranks have averaged it."""

    values: Tensor | None  # any shape; None if this rank has nothing of it
    weight: float  # one over the number of ranks that have the same values: a sum over all ranks counts them once


def local_gradient(parameter: Any, num_ranks: int) -> LocalGradient:
    """This rank's part of a gradient.

    Args:
        parameter: A parameter, sharded or not, after the backward pass.
        num_ranks: Number of all ranks.
    """
    if is_zero3_sharded(parameter):
        from deepspeed.utils import safe_get_local_grad  # an optional dependency, installed if this is ZeRO

        return LocalGradient(safe_get_local_grad(parameter), 1.0)
    if hasattr(parameter, "_hp_mapping"):  # ZeRO-1 and 2
        return LocalGradient(_gradient_fragment(parameter), 1.0)
    gradient = parameter.grad
    if is_dtensor(gradient):
        return LocalGradient(local_part(gradient), num_shards(gradient) / num_ranks)
    return LocalGradient(gradient, 1.0 / num_ranks)


def has_partitioned_gradient(parameter: object) -> bool:
    """Whether ranks have different parts of a parameter's gradient."""
    return is_zero3_sharded(parameter) or hasattr(parameter, "_hp_mapping") or is_dtensor(parameter)


def _gradient_fragment(parameter: Any) -> Tensor | None:
    """The part of a gradient that ZeRO-1 and 2 leave on this rank; None if other ranks have it."""
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    gradient: Tensor = mapping.get_lp_grad_fragment(parameter._index_in_param_group).flatten()
    address = mapping.lp_fragment_address
    # Some of its optimizers have the complete gradient on every rank; only this rank's part of it counts.
    return gradient.narrow(0, address.start, address.numel) if gradient.numel() == parameter.numel() else gradient
