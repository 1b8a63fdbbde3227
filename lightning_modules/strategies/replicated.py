"""Strategies that keep the whole model on every device: a single one, and data parallel over several."""

from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer.connectors.accelerator_connector import _AcceleratorConnector

from lightning_modules.checkpoints.portable_checkpoints import PortableCheckpoints


class SingleDevice(PortableCheckpoints, SingleDeviceStrategy):
    """One process on one device: the one that ``trainer.accelerator`` and ``trainer.devices`` choose."""

    def __init__(self) -> None:
        super().__init__()
        self.parallel_devices: list[torch.device] | None = None  # the trainer writes its devices here

    @property
    def root_device(self) -> torch.device:
        """The device.

        Raises:
            ValueError: The trainer was given several; all but one would stand idle.
        """
        devices = self.parallel_devices or [torch.device("cpu")]
        if len(devices) != 1:
            raise ValueError(
                f"strategy SingleDevice trains on one device, but the trainer has {len(devices)}: set trainer.devices "
                "to 1, or take the overlay of another strategy (configs/strategy/ddp.yaml)"
            )
        return devices[0]


class Ddp(PortableCheckpoints, DDPStrategy):
    """Every device holds the whole model and optimizer; gradients are averaged while backward runs.

    Every trainable parameter takes part in every step, whatever a batch holds, so none is searched for that does not.

    Args:
        bucket_mb: Size of the pieces, in MiB, in which gradients are averaged: larger ones use the network better,
            smaller ones start earlier.
        gradients_share_buckets: Gradients are views of these pieces, which saves a copy of all of them.
        process_group_backend: ``nccl`` or ``gloo``; chosen by the device by default.
        timeout_minutes: How long a rank waits for the others in one call before the run fails.
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


def replicated_strategy(accelerator: Any, devices: Any, num_nodes: int) -> SingleDevice | Ddp:
    """The strategy where none is chosen: ``SingleDevice`` for one process, ``Ddp`` for several.

    Args:
        accelerator: As ``trainer.accelerator``.
        devices: As ``trainer.devices``.
        num_nodes: As ``trainer.num_nodes``.
    """
    # How many devices "auto", -1 or "0,3" are, only Lightning's own reading of these settings tells.
    found = _AcceleratorConnector(accelerator=accelerator, devices=devices, num_nodes=num_nodes)
    return SingleDevice() if isinstance(found.strategy, SingleDeviceStrategy) else Ddp()
