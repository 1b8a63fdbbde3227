"""Peak resident size of a piece of work, measured in a process that runs nothing else (Linux)."""

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
    """Run a module's function in a new process and hand back what it returns.

    Large blocks go straight back to the kernel there: glibc's heap does not fill the gaps that aligned blocks leave,
    and would grow although no tensor stays.
    """
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments, options)


class PeakResidentBytes:
    """Measures by how much the resident size grows at most inside a ``with`` block.

    Attributes:
        growth: Bytes, once the block has ended.
    """

    growth: int

    def __enter__(self) -> "PeakResidentBytes":
        """Forget the peak so far."""
        forget_peak()
        self._before = resident_bytes()
        return self

    def __exit__(self, *exception: object) -> None:
        """Read the peak."""
        self.growth = peak_resident_bytes() - self._before


def resident_bytes() -> int:
    """Resident size of this process."""
    return _status_bytes("VmRSS")


def peak_resident_bytes() -> int:
    """Largest resident size since ``forget_peak``. ``getrusage`` would hand on the parent's."""
    return _status_bytes("VmHWM")


def forget_peak() -> None:
    """Begin anew with the largest resident size."""
    Path("/proc/self/clear_refs").write_text("5")


def _status_bytes(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])
