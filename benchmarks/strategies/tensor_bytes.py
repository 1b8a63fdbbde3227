"""Counts the bytes of the tensors that a rank has between two calls, wherever its strategy stores them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from components.sharding import local_part, zero3_share

KINDS = ("parameters", "gradients", "optimizer")


def held_bytes(module: nn.Module, optimizer: Any) -> dict[str, dict[str, int]]:
    """Count the tensors of a rank after the backward pass and before the optimizer's step.

    Memory that tensors share is counted once, for the first of ``KINDS`` that has it. Tensors that exist only during a
    call (activations, gathered weights, buckets of gradients) are not counted.

    Args:
        module: The model. Of a sharded parameter this rank's shard counts, or all of it while it is gathered.
        optimizer: The optimizer, or DeepSpeed's wrapper. Its float32 copies of weights count as optimizer states.

    Returns:
        Bytes by ``KINDS`` and by kind of device.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    seen: set[tuple[str, int]] = set()
    parameters = list(module.parameters())
    return {
        "parameters": _bytes(_tensors([parameters, list(map(zero3_share, parameters))]), seen),
        "gradients": _bytes(_gradients(parameters, optimizer, inner), seen),
        "optimizer": _bytes(
            _tensors([[g["params"] for g in inner.param_groups], _masters(optimizer), inner.state]), seen
        ),
    }


# DeepSpeed has no public interface for these tensors: names as of 0.19.
def _masters(optimizer: Any) -> list[Any]:
    names = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat")
    return [getattr(optimizer, name, None) for name in names]


def _gradients(parameters: Iterable[Tensor], optimizer: Any, inner: Any) -> Iterator[Tensor]:
    held = [*parameters, *_tensors([_masters(optimizer), [group["params"] for group in inner.param_groups]])]
    yield from _tensors([tensor.grad for tensor in held if tensor.is_leaf])
    names = ("averaged_gradients", "all_grad_tensors", "grads_in_partition", "grad_partitions_flat_buffer")
    yield from _tensors([getattr(optimizer, name, None) for name in (*names, "accumulated_grads_in_cpu")])


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested collections."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _bytes(tensors: Iterable[Tensor], seen: set[tuple[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for tensor in tensors:
        storage = local_part(tensor).untyped_storage()
        key = (str(storage.device), storage.data_ptr())
        if storage.nbytes() and key not in seen:
            seen.add(key)
            total[torch.device(storage.device).type] += storage.nbytes()
    return dict(total)
