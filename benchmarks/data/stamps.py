"""Stamps batches with figures of the worker process that makes them."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

Items = TypeVar("Items")

_PROCESS_CLOCK = 2  # the kernel's name for the processor time of all threads of a process, lowest bits of a clock


class Stamp(NamedTuple):
    """State of a worker when it has made a batch."""

    worker: int  # process id
    videos: int  # decoded for the batch
    conversations: int
    wall: float  # seconds
    processor: float  # seconds, of the worker with its decoding process


class Stamped(NamedTuple):
    """A batch and its stamp."""

    batch: Any
    stamp: Stamp


class StampedCollate(Generic[Items]):
    """Joins samples as another function does, and stamps the result.

    Args:
        collate: Joins samples to a batch.
        count: Returns the number of conversations of a batch.
    """

    def __init__(self, collate: Callable[[Sequence[Items]], Any], count: Callable[[Any], int]) -> None:
        self._collate = collate
        self._count = count

    def __call__(self, samples: Sequence[Items]) -> Stamped:
        """Join and stamp."""
        batch = self._collate(samples)
        stamp = Stamp(os.getpid(), len(samples), self._count(batch), time.perf_counter(), family_processor_seconds())
        return Stamped(batch, stamp)


def family_processor_seconds() -> float:
    """Processor time of this process and its children that run, all threads."""
    total = time.process_time()
    for child in children(os.getpid()):
        # The same clock of another process; the number is that of clock_getcpuclockid(3).
        total += time.clock_gettime((~child << 3) | _PROCESS_CLOCK)
    return total


def children(process: int) -> Iterator[int]:
    """The running children of a process."""
    for thread in Path(f"/proc/{process}/task").glob("*/children"):
        yield from map(int, thread.read_text().split())
