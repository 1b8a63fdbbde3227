"""Measures time without waiting for the device: marks are set at once and read later."""

import time
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """Sets time marks in the sequence of operations."""

    def mark(self) -> Any:
        """Set a mark after the operations so far."""

    def has_passed(self, mark: Any) -> bool:
        """Whether the device has reached a mark."""

    def seconds(self, start: Any, end: Any) -> float:
        """Time between two marks that the device has reached."""


class HostClock:
    """Clock of the process. Correct if operations are finished when their call returns, as on a CPU."""

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
    """Clock of the GPU's stream, which the process does not wait for: waiting at every mark would slow training."""

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
    """The clock for operations on a device."""
    return CudaClock() if device.type == "cuda" else HostClock()
