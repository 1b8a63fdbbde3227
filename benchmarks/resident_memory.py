"""Measures the peak resident memory of a function in a process of its own (Linux)."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def in_fresh_process(
    work: Callable[Arguments, Result], *arguments: Arguments.args, **options: Arguments.kwargs
) -> Result:
    """Run a module's function in a new process and return its result.

    There, large blocks are returned to the kernel at once. Otherwise glibc's heap would grow although no tensor is
    alive, because it does not reuse the gaps between aligned blocks.
    """
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments, options)


class PeakResidentBytes:
    """Measures the largest growth of the resident size inside a ``with`` block.

    Attributes:
        growth: Bytes, once the block has ended.
    """

    growth: int

    def __enter__(self) -> "PeakResidentBytes":
        """Reset the peak."""
        reset_peak()
        self._before = resident_bytes()
        return self

    def __exit__(self, *exception: object) -> None:
        """Read the peak."""
        self.growth = peak_resident_bytes() - self._before


def resident_bytes() -> int:
    """Resident size of this process."""
    return _status_bytes("VmRSS")


def peak_resident_bytes() -> int:
    """Largest resident size since ``reset_peak``. ``getrusage`` would include the parent's."""
    return _status_bytes("VmHWM")


def reset_peak() -> None:
    """Reset the largest resident size."""
    Path("/proc/self/clear_refs").write_text("5")


def _status_bytes(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])
