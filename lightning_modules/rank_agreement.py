"""Combines numbers of all ranks; without a process group they are returned unchanged."""

import torch
from torch import Tensor


def largest_of_all_ranks(value: int, device: torch.device) -> int:
    """The largest value that any rank gives; every rank must call it.

    Args:
        value: This rank's.
        device: Device of the process group's communication.
    """
    if not _several_ranks():
        return value
    largest = torch.tensor(value, device=device)
    torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
    return int(largest)


def mean_over_ranks(value: Tensor) -> Tensor:
    """Mean of the ranks' values, a float32 scalar without gradient; every rank must call it.

    Args:
        value: This rank's, a scalar on the device of the process group's communication.
    """
    mean = value.detach().float()
    if _several_ranks():
        mean = mean.clone()
        torch.distributed.all_reduce(mean)
        mean /= torch.distributed.get_world_size()
    return mean


def sum_over_ranks(values: Tensor, device: torch.device) -> Tensor:
    """Sum of the ranks' values, on the device where ``values`` are; every rank must call it.

    Args:
        values: This rank's, of the same shape and dtype on every rank.
        device: Device of the process group's communication.
    """
    if not _several_ranks():
        return values
    total = values.detach().to(device, copy=True)
    torch.distributed.all_reduce(total)
    return total.to(values.device)


class LargestOfAllRanks:
    """Finds the largest number of all ranks while the ranks go on working.

    Every rank of the process group must create one, in the same order of collective calls.

    Args:
        number: This rank's.
        device: Device of the process group's communication.
    """

    def __init__(self, number: int, device: torch.device) -> None:
        self._result = torch.full((1,), number, dtype=torch.int32, device=device)
        self._work = torch.distributed.all_reduce(self._result, torch.distributed.ReduceOp.MAX, async_op=True)
        self._arrived: torch.cuda.Event | None = None
        if device.type == "cuda":
            # Reading it from the device later would wait for all work that is queued there by then.
            self._work.wait()
            self._result = torch.empty(1, dtype=torch.int32, pin_memory=True).copy_(self._result, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def answer(self) -> int:
        """The largest number."""
        if self._arrived is None:
            self._work.wait()
        else:
            self._arrived.synchronize()
        return int(self._result)


def _several_ranks() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
