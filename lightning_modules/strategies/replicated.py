"""Strategies with the complete model on every device: one device, or data parallel training (DDP) on several."""

from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer.connectors.accelerator_connector import _AcceleratorConnector

from lightning_modules.checkpoints.portable_checkpoints import PortableCheckpoints


class SingleDevice(PortableCheckpoints, SingleDeviceStrategy):
    """One process on one device, which ``trainer.accelerator`` and ``trainer.devices`` select."""

    def __init__(self) -> None:
        super().__init__()
        self.parallel_devices: list[torch.device] | None = None  # the trainer writes its devices here

    @property
    def root_device(self) -> torch.device:
        """The device.

        Raises:
            ValueError: The trainer has several devices; all but one would be idle.
        """
        devices = self.parallel_devices or [torch.device("cpu")]
        if len(devices) != 1:
            raise ValueError(
                f"strategy SingleDevice trains on one device, but the trainer has {len(devices)}: set trainer.devices "
                "to 1, or take the overlay of another strategy (configs/strategy/ddp.yaml)"
            )
        return devices[0]


class Ddp(PortableCheckpoints, DDPStrategy):
    """Every device has the complete model and optimizer; gradients are averaged during the backward pass.

    The model uses every trainable parameter in every step, so DDP's search for unused parameters is off.

    Args:
        bucket_mb: Size, in MiB, of the buckets in which gradients are averaged. Larger ones use the network better,
            smaller ones start earlier.
        gradients_share_buckets: Store gradients in the buckets themselves, which saves a copy of all gradients.
        process_group_backend: ``nccl`` or ``gloo``; by default it depends on the device.
        timeout_minutes: Time after which a communication that waits for other ranks fails.
    """

    def __init__(
        self,
        *,
        bucket_mb: int = 25,
        gradients_share_buckets: bool = True,
        process_group_backend: str | None = None,
        timeout_minutes: float = 30,
    ) -> None:
        options: dict[str, Any] = {"bucket_cap_mb": bucket_mb, "gradient_as_bucket_view": gradients_share_buckets}
        super().__init__(
            process_group_backend=process_group_backend, timeout=timedelta(minutes=timeout_minutes), **options
        )

    def determine_ddp_device_ids(self) -> None:
        """Let DDP leave the batch as it is: with ids of devices it would move the counts and texts off the host."""


def replicated_strategy(accelerator: Any, devices: Any, num_nodes: int) -> SingleDevice | Ddp:
    """The default strategy: ``SingleDevice`` for one process, ``Ddp`` for several.

    Args:
        accelerator: As ``trainer.accelerator``.
        devices: As ``trainer.devices``.
        num_nodes: As ``trainer.num_nodes``.
    """
    # Lightning's own code determines how many devices "auto", -1 or "0,3" are.
    found = _AcceleratorConnector(accelerator=accelerator, devices=devices, num_nodes=num_nodes)
    return SingleDevice() if isinstance(found.strategy, SingleDeviceStrategy) else Ddp()
