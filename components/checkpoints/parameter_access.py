"""Reads and writes whole parameters and their optimizer states, wherever a strategy keeps them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from components.sharding import gathered, is_dtensor, local_part, local_slices


class OptimizerSlot(NamedTuple):
    """What the optimizer keeps one state for: a parameter, or the piece of memory in which a strategy joins several."""

    tensor: Tensor
    group: Mapping[str, Any]
    parameters: Sequence[Tensor]


class Share(NamedTuple):
    """This rank's part of a parameter, flattened."""

    values: Tensor  # [n], a view of the memory in which it is kept
    start: int  # where it begins in the whole parameter


class ParameterAccess(ABC):
    """Whole parameters and optimizer states, one at a time.

    Every rank makes the same calls in the same order: some of them communicate.

    Args:
        optimizer: The optimizer itself, below what a strategy wraps around it; None where nothing trains.
    """

    def __init__(self, optimizer: Optimizer | None) -> None:
        self.optimizer = optimizer

    @abstractmethod
    def slots(self) -> list[OptimizerSlot]:
        """All that the optimizer may keep a state for, in the same order on every rank."""

    @abstractmethod
    def slot_tensor(self, parameter: Tensor) -> Tensor | None:
        """The tensor of the parameter's slot; None if the optimizer does not have the parameter."""

    @abstractmethod
    def shape(self, parameter: Tensor) -> torch.Size:
        """Shape of the whole parameter."""

    @abstractmethod
    def dtype(self, parameter: Tensor, state: str | None) -> torch.dtype:
        """Dtype of what ``whole`` gives."""

    @abstractmethod
    def gather(self, parameter: Tensor, state: str | None, rank: int) -> Tensor | None:
        """Bring a parameter, or a state of it, together.

        Args:
            parameter: The parameter.
            state: Name of a tensor of the optimizer; None for the parameter itself, in float32 where the strategy
                keeps a float32 copy.
            rank: Who needs it.

        Returns:
            The whole tensor in the parameter's shape, on ``rank``; on the others anything.
        """

    @abstractmethod
    def share(self, parameter: Tensor) -> Share:
        """The part of a parameter that this rank accounts for: every element is in one rank's share.

        It is the parameter as the module computes with it, in its dtype. Nothing is communicated.
        """

    @abstractmethod
    def assign(self, parameter: Tensor, state: str | None, whole: Tensor) -> None:
        """Take this rank's share of a whole tensor; the counterpart of ``whole``.

        Args:
            parameter: The parameter.
            state: See ``whole``; the optimizer must have it.
            whole: The whole tensor, of any dtype.
        """

    def tensor_states(self, parameter: Tensor) -> list[str]:
        """Names of the optimizer's tensors that are shaped like the parameter."""
        return [name for name, value in self._state(parameter).items() if not _is_number(name, value)]

    def step_counts(self, parameter: Tensor) -> dict[str, float]:
        """The optimizer's numbers for the parameter: how many steps it has had."""
        return {name: float(value) for name, value in self._state(parameter).items() if _is_number(name, value)}

    def make_state(self, slot: OptimizerSlot) -> None:
        """Have the optimizer make the state that it would make at the first step, all as if no step was done.

        Only the optimizer knows what its state looks like, so it does a step with a gradient of zeros and without
        decay: that leaves the weights as they are, to the bit.
        """
        assert self.optimizer is not None
        groups, gradient = self.optimizer.param_groups, slot.tensor.grad
        self.optimizer.param_groups = [{**slot.group, "params": [slot.tensor], "lr": 1.0, "weight_decay": 0.0}]
        slot.tensor.grad = torch.zeros_like(slot.tensor)
        try:
            self.optimizer.step()
        finally:
            self.optimizer.param_groups = groups
            slot.tensor.grad = gradient

    def set_step_counts(self, slot: OptimizerSlot, numbers: Mapping[str, float]) -> None:
        """Set the optimizer's numbers, each in the form in which the optimizer keeps it."""
        assert self.optimizer is not None
        state = self.optimizer.state[slot.tensor]
        for name, value in numbers.items():
            if isinstance(state.get(name), Tensor):
                state[name].fill_(value)
            elif name in state:
                state[name] = type(state[name])(value)

    def _state(self, parameter: Tensor) -> Mapping[str, Any]:
        tensor = self.slot_tensor(parameter)
        # Not by subscript: the optimizer's mapping would make an empty entry.
        return {} if self.optimizer is None or tensor is None else self.optimizer.state.get(tensor, {})


class DirectAccess(ParameterAccess):
    """Parameters that the module itself holds: whole ones (one device, DDP), or FSDP2's ``DTensor``.

    Args:
        optimizer: See ``ParameterAccess``.
        device: Where the ranks communicate; weights that rest on the host are brought there first.
        rank: This rank.
        num_ranks: All ranks, each of which calls the methods.
    """

    def __init__(self, optimizer: Optimizer | None, device: torch.device, rank: int = 0, num_ranks: int = 1) -> None:
        super().__init__(optimizer)
        self._device = device
        self._rank = rank
        self._num_ranks = num_ranks
        groups = [] if optimizer is None else optimizer.param_groups
        self._slots = {
            id(tensor): OptimizerSlot(tensor, group, [tensor]) for group in groups for tensor in group["params"]
        }

    def slots(self) -> list[OptimizerSlot]:
        """See ``ParameterAccess``."""
        return list(self._slots.values())

    def slot_tensor(self, parameter: Tensor) -> Tensor | None:
        """See ``ParameterAccess``."""
        return parameter if id(parameter) in self._slots else None

    def shape(self, parameter: Tensor) -> torch.Size:
        """See ``ParameterAccess``."""
        return parameter.shape

    def dtype(self, parameter: Tensor, state: str | None) -> torch.dtype:
        """See ``ParameterAccess``."""
        return self._tensor(parameter, state).dtype

    def gather(self, parameter: Tensor, state: str | None, rank: int) -> Tensor | None:
        """See ``ParameterAccess``."""
        return gathered(self._tensor(parameter, state).detach(), self._device)

    def share(self, parameter: Tensor) -> Share:
        """See ``ParameterAccess``."""
        tensor = parameter.detach()
        if not is_dtensor(tensor):
            return even_share(tensor, self._rank, self._num_ranks)
        local = local_part(tensor)  # some rows: FSDP2 cuts along the first dimension
        first_row = local_slices(tensor)[0].start
        return Share(local.reshape(-1), first_row * math.prod(tensor.shape[1:]) if local.numel() else 0)

    def assign(self, parameter: Tensor, state: str | None, whole: Tensor) -> None:
        """See ``ParameterAccess``."""
        tensor = self._tensor(parameter, state).detach()
        if is_dtensor(tensor):
            whole = whole[local_slices(tensor)]
        local_part(tensor).copy_(whole)

    def _tensor(self, parameter: Tensor, state: str | None) -> Tensor:
        tensor: Tensor = parameter if state is None else self._state(parameter)[state]
        return tensor


def even_share(whole: Tensor, rank: int, num_ranks: int) -> Share:
    """The part that a rank accounts for of a tensor that all ranks hold."""
    flat = whole.reshape(-1)
    length = -(-len(flat) // num_ranks)
    return Share(flat[rank * length : (rank + 1) * length], rank * length)


def _is_number(name: str, value: Any) -> bool:
    # A parameter may have no dimension either, and then its moments have none.
    return not isinstance(value, Tensor) or name == "step"
