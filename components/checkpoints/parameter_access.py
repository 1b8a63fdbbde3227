"""Reads and writes complete parameters and optimizer states, however a strategy shards them.

``DirectAccess`` serves one device, DDP and FSDP2. ZeRO's is in ``lightning_modules.checkpoints.zero_access``.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from components.sharding import gathered, is_dtensor, local_part, local_slices


class OptimizerSlot(NamedTuple):
    """A tensor for which the optimizer has one state: a parameter, or a buffer in which ZeRO joins several."""

    tensor: Tensor
    group: Mapping[str, Any]
    parameters: Sequence[Tensor]


class Share(NamedTuple):
    """This rank's part of a parameter, flattened."""

    values: Tensor  # [n], a view of the stored part
    start: int  # index of its first element in the complete, flattened parameter


class ParameterAccess(ABC):
    """Reads and writes parameters and optimizer states, one at a time.

    Every rank must make the same calls in the same order, because some of them communicate.

    Args:
        optimizer: The torch optimizer, without a strategy's wrapper; None if nothing trains.
    """

    def __init__(self, optimizer: Optimizer | None) -> None:
        self.optimizer = optimizer

    @abstractmethod
    def slots(self) -> list[OptimizerSlot]:
        """All slots of the optimizer, in the same order on every rank."""

    @abstractmethod
    def slot_tensor(self, parameter: Tensor) -> Tensor | None:
        """The tensor of the parameter's slot; None if the optimizer does not have the parameter."""

    @abstractmethod
    def shape(self, parameter: Tensor) -> torch.Size:
        """Shape of the complete parameter."""

    @abstractmethod
    def dtype(self, parameter: Tensor, state: str | None) -> torch.dtype:
        """Dtype of what ``gather`` returns."""

    @abstractmethod
    def gather(self, parameter: Tensor, state: str | None, rank: int) -> Tensor | None:
        """Gather a complete parameter, or one of its optimizer states, on one rank.

        Args:
            parameter: The parameter.
            state: Name of a tensor of the optimizer, such as ``exp_avg``; None for the parameter itself, in float32 if
                the strategy has a float32 copy.
            rank: The rank that needs the result.

        Returns:
            The complete tensor in the parameter's shape on ``rank``; unspecified on other ranks.
        """

    @abstractmethod
    def share(self, parameter: Tensor) -> Share:
        """This rank's share of a parameter, in the dtype that the module computes in. Does not communicate.

        Each element belongs to the share of exactly one rank.
        """

    @abstractmethod
    def assign(self, parameter: Tensor, state: str | None, complete: Tensor) -> None:
        """Write a parameter or optimizer state from a complete tensor; the reverse of ``gather``.

        Args:
            parameter: The parameter.
            state: See ``gather``; the optimizer must have it.
            complete: The complete tensor, any dtype.
        """

    def tensor_states(self, parameter: Tensor) -> list[str]:
        """Names of the optimizer states that have the parameter's shape."""
        return [name for name, value in self._state(parameter).items() if not _is_number(name, value)]

    def step_counts(self, parameter: Tensor) -> dict[str, float]:
        """The optimizer's step counts of a parameter, by name of the state."""
        return {name: float(value) for name, value in self._state(parameter).items() if _is_number(name, value)}

    def make_state(self, slot: OptimizerSlot) -> None:
        """Let the optimizer create the state of a slot, as it does in its first step.

        Only the optimizer knows the form of its state. So it performs a step with a zero gradient and no weight decay,
        which leaves the weights exactly as they are.
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

    def set_step_counts(self, slot: OptimizerSlot, counts: Mapping[str, float]) -> None:
        """Set the step counts of a slot, in the type that the optimizer uses (tensor or number)."""
        assert self.optimizer is not None
        state = self.optimizer.state[slot.tensor]
        for name, value in counts.items():
            if isinstance(state.get(name), Tensor):
                state[name].fill_(value)
            elif name in state:
                state[name] = type(state[name])(value)

    def _state(self, parameter: Tensor) -> Mapping[str, Any]:
        tensor = self.slot_tensor(parameter)
        # Not by subscript, which would add an empty entry to the optimizer's default dict.
        return {} if self.optimizer is None or tensor is None else self.optimizer.state.get(tensor, {})


class DirectAccess(ParameterAccess):
    """Access to parameters of the module itself: complete ones (one device, DDP) or FSDP2's ``DTensor``.

    Args:
        optimizer: See ``ParameterAccess``.
        device: Device on which ranks communicate; offloaded weights are moved there to be gathered.
        rank: This rank.
        num_ranks: Number of ranks, each of which calls the methods.
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
        local = local_part(tensor)  # some rows: FSDP2 shards along the first dimension
        first_row = local_slices(tensor)[0].start
        return Share(local.reshape(-1), first_row * math.prod(tensor.shape[1:]) if local.numel() else 0)

    def assign(self, parameter: Tensor, state: str | None, complete: Tensor) -> None:
        """See ``ParameterAccess``."""
        tensor = self._tensor(parameter, state).detach()
        if is_dtensor(tensor):
            complete = complete[local_slices(tensor)]
        local_part(tensor).copy_(complete)

    def _tensor(self, parameter: Tensor, state: str | None) -> Tensor:
        tensor: Tensor = parameter if state is None else self._state(parameter)[state]
        return tensor


def even_share(complete: Tensor, rank: int, num_ranks: int) -> Share:
    """A rank's share of a tensor that all ranks hold completely: an equal division of its elements."""
    flat = complete.reshape(-1)
    length = -(-len(flat) // num_ranks)
    return Share(flat[rank * length : (rank + 1) * length], rank * length)


def _is_number(name: str, value: Any) -> bool:
    # Not by the number of dimensions: a parameter may be a scalar, and then its moments are scalars too.
    return not isinstance(value, Tensor) or name == "step"
