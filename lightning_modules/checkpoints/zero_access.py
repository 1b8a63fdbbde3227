"""Reads and writes complete parameters and optimizer states under DeepSpeed's ZeRO."""

from typing import Any

import torch
from torch import Tensor

from components.checkpoints.parameter_access import OptimizerSlot, ParameterAccess, Share, even_share
from components.sharding import is_zero3_sharded, whole_shape, zero3_share


class ZeroAccess(ParameterAccess):
    """Access to parameters that ZeRO partitions.

    ZeRO joins this rank's float32 shares of many parameters in one flat buffer, which has one optimizer state. Stages 1
    and 2 have a buffer per optimizer group, and the module has complete weights. Stage 3 has a buffer per subgroup, and
    the module has shares, in the dtype that it computes in.

    Args:
        optimizer: DeepSpeed's wrapper of the optimizer; None if nothing trains.
        device: Device on which ranks communicate.
        rank: This rank.
        num_ranks: Number of ranks.

    Raises:
        NotImplementedError: Optimizer states are offloaded to a disk (NVMe).
    """

    def __init__(self, optimizer: Any, device: torch.device, rank: int, num_ranks: int) -> None:
        super().__init__(None if optimizer is None else optimizer.optimizer)
        if getattr(optimizer, "swap_optimizer", False):
            raise NotImplementedError("checkpoints of optimizer states that are offloaded to NVMe are not supported")
        self._zero = optimizer
        self._device = device
        self._rank = rank
        self._num_ranks = num_ranks
        self._slots = _slots(optimizer)
        self._slot_of = {id(parameter): slot for slot in self._slots for parameter in slot.parameters}

    def slots(self) -> list[OptimizerSlot]:
        """See ``ParameterAccess``."""
        return self._slots

    def slot_tensor(self, parameter: Tensor) -> Tensor | None:
        """See ``ParameterAccess``."""
        slot = self._slot_of.get(id(parameter))
        return None if slot is None else slot.tensor

    def shape(self, parameter: Any) -> torch.Size:
        """See ``ParameterAccess``."""
        return whole_shape(parameter)

    def dtype(self, parameter: Tensor, state: str | None) -> torch.dtype:
        """See ``ParameterAccess``."""
        joined = self._joined(parameter, state)
        return parameter.dtype if joined is None else joined.dtype

    def gather(self, parameter: Tensor, state: str | None, rank: int) -> Tensor | None:
        """See ``ParameterAccess``."""
        joined = self._joined(parameter, state)
        if joined is not None:
            return self._gather_shares(parameter, self._share(parameter, joined), rank)
        if is_zero3_sharded(parameter):
            return self._gather_shares(parameter, self._module_share(parameter), rank)
        return parameter.detach()

    def share(self, parameter: Any) -> Share:
        """See ``ParameterAccess``."""
        if not is_zero3_sharded(parameter):
            return even_share(parameter.detach(), self._rank, self._num_ranks)
        share = self._module_share(parameter)
        return Share(share.values[: _real_length(share, self.shape(parameter).numel())], share.start)

    def assign(self, parameter: Tensor, state: str | None, complete: Tensor) -> None:
        """See ``ParameterAccess``."""
        joined = self._joined(parameter, state)
        if joined is not None:
            _copy_share(self._share(parameter, joined), complete)
        if state is not None:
            return
        if is_zero3_sharded(parameter):
            _copy_share(self._module_share(parameter), complete)
        if not is_zero3_sharded(parameter) or parameter.numel() == complete.numel():  # small weights stay gathered
            parameter.detach().copy_(complete.view(parameter.shape))

    def _joined(self, parameter: Tensor, state: str | None) -> Tensor | None:
        """The flat buffer that contains this rank's share of the parameter."""
        slot = self.slot_tensor(parameter)
        if state is None or slot is None:
            return slot
        tensor: Tensor = self._state(parameter)[state]
        return tensor

    def _share(self, parameter: Any, joined: Tensor) -> Share:
        if is_zero3_sharded(parameter):
            assert self._zero is not None
            _, begin, length = self._zero.grad_position[self._zero.get_param_id(parameter)]
            return Share(joined.detach().narrow(0, begin, length), self._rank * length)
        fragment = parameter._hp_mapping
        if fragment is None:  # the parameter is completely in other ranks' buffers
            return Share(joined.detach().narrow(0, 0, 0), 0)
        address = fragment.hp_fragment_address
        return Share(joined.detach().narrow(0, address.start, address.numel), fragment.lp_fragment_address.start)

    def _module_share(self, parameter: Any) -> Share:
        values = zero3_share(parameter)
        assert values is not None
        values = values.detach()
        return Share(values, self._rank * values.numel())

    def _gather_shares(self, parameter: Any, share: Share, rank: int) -> Tensor:
        shape = self.shape(parameter)
        complete = torch.zeros(shape.numel(), dtype=share.values.dtype, device=self._device)
        length = _real_length(share, complete.numel())
        complete[share.start : share.start + length] = share.values[:length].to(self._device)
        if torch.distributed.is_initialized():
            torch.distributed.reduce(complete, dst=rank)
        return complete.view(shape)


def _real_length(share: Share, num_elements: int) -> int:
    """Number of elements of a share without padding, which the last ranks' shares may have."""
    return max(0, min(share.values.numel(), num_elements - share.start))


def _copy_share(share: Share, complete: Tensor) -> None:
    length = _real_length(share, complete.numel())
    share.values[:length].copy_(complete.reshape(-1)[share.start : share.start + length])


def _slots(zero: Any) -> list[OptimizerSlot]:
    """The flat buffers, each with its optimizer group and the parameters in it."""
    if zero is None:
        return []
    groups = zero.optimizer.param_groups
    if hasattr(zero, "sub_group_to_group_id"):  # stage 3
        buffers, parameters = zero.fp32_partitioned_groups_flat, zero.fp16_groups
        groups = [groups[zero.sub_group_to_group_id[index]] for index in range(len(buffers))]
    else:
        buffers, parameters = zero.single_partition_of_fp32_groups, zero.bit16_groups
    return [OptimizerSlot(*each) for each in zip(buffers, groups, map(list, parameters), strict=True)]
