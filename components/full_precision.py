"""Computes in the precision of the tensors where autocast would take a lower one."""

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Turn autocast off: float32 matrix products stay float32. Not every device has autocast.

    Args:
        device: Where the tensors are.
    """
    kind = device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
