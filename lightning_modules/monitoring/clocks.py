"""Clocks that are set without waiting for the device, and read later."""

import time
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """Marks moments of the work."""

    def mark(self) -> Any:
        """Mark this moment."""

    def has_passed(self, mark: Any) -> bool:
        """Whether the device has come there."""

    def seconds(self, start: Any, end: Any) -> float:
        """Time between two marks that have passed."""


class HostClock:
    """Time of the process. Right where work is done when a call returns, as on a CPU."""

    def mark(self) -> float:
        """See ``Clock``."""
        return time.perf_counter()

    def has_passed(self, mark: float) -> bool:
        """Always."""
        return True

    def seconds(self, start: float, end: float) -> float:
        """See ``Clock``."""
        return end - start


class CudaClock:
    """Time on the GPU's own stream. The process runs ahead of it; waiting for it at every mark would slow training."""

    def mark(self) -> Any:
        """See ``Clock``."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def has_passed(self, mark: Any) -> bool:
        """See ``Clock``."""
        return bool(mark.query())

    def seconds(self, start: Any, end: Any) -> float:
        """See ``Clock``."""
        return float(start.elapsed_time(end)) / 1000.0


def clock_of(device: torch.device) -> Clock:
    """The clock that is right for work on a device."""
    return CudaClock() if device.type == "cuda" else HostClock()
