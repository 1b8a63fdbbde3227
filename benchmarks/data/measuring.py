"""Runs a pipeline in a process of its own and measures its batches."""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.data.pipelines import PIPELINES, Workload
from benchmarks.data.stamps import Stamp, children

_LOOK_S = 0.02  # seconds between two measurements of memory


class Arrival(NamedTuple):
    """When a batch arrived in the main process."""

    stamp: Stamp
    processor: float  # seconds, of this process alone


class Cost(NamedTuple):
    """Time that a pipeline takes once it has started."""

    first_batch: float  # seconds of wall time, without imports
    video: float  # seconds a decoded video
    conversations: float  # of a decoded video


def measure_cost(name: str, workload: Workload, clock: str) -> Cost:
    """Run a pipeline in a new process.

    Args:
        name: One of ``PIPELINES``.
        workload: What it reads.
        clock: ``wall``, or ``cpu`` for the processor time of all of the pipeline's processes together.

    Raises:
        RuntimeError: The pipeline failed.
    """
    return _run_apart(name, workload, clock, None)


def measure_peak(name: str, workload: Workload) -> int:
    """Run a pipeline and measure the memory of all its processes together, in bytes.

    Memory shared with this process (the imported libraries) counts once.

    Raises:
        RuntimeError: The pipeline failed.
    """
    peaks = [0]

    def look(process: int) -> None:
        peaks.append(memory_of([os.getpid(), *descendants(process)]))

    _run_apart(name, workload, "wall", look)
    return max(peaks)


def cost_of(arrivals: Sequence[Arrival], first_batch: float, clock: str) -> Cost:
    """Compute the time of a video from the batches.

    A worker's time until its first batch is its start. Between its first and last stamp there are complete batches
    only, so prefetched batches are counted correctly.

    Args:
        arrivals: All batches of a run, in order.
        first_batch: Seconds until the first.
        clock: ``wall`` or ``cpu``.

    Raises:
        ValueError: A worker made only one batch.
    """
    stamps = [arrival.stamp for arrival in arrivals]
    seconds = videos = rate = 0.0
    for worker in {stamp.worker for stamp in stamps}:
        first, *later = (stamp for stamp in stamps if stamp.worker == worker)
        if not later:
            raise ValueError("every worker must make two batches or more, to tell its start from its work")
        made = sum(stamp.videos for stamp in later)
        seconds += later[-1].processor - first.processor
        rate += made / (later[-1].wall - first.wall)
        videos += made
    receiving = arrivals[-1].processor - arrivals[0].processor
    received = sum(stamp.videos for stamp in stamps[1:])
    video = 1 / rate if clock == "wall" else seconds / videos + receiving / received
    return Cost(
        first_batch, video, sum(stamp.conversations for stamp in stamps) / sum(stamp.videos for stamp in stamps)
    )


def descendants(process: int) -> Iterator[int]:
    """A process and all its running descendants."""
    yield process
    try:
        started = list(children(process))
    except FileNotFoundError:
        return
    for child in started:
        yield from descendants(child)


def memory_of(processes: Iterable[int]) -> int:
    """Resident bytes of processes together; pages that several of them share count once.

    A decoding process passes frames in a memory file that no process maps; it counts too.
    """
    total = 0
    frames: dict[int, int] = {}
    for process in processes:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            frames |= _files_in_memory(process)
    return total + sum(frames.values())


def _files_in_memory(process: int) -> dict[int, int]:
    """Bytes of the memory files that a process has open, by inode."""
    found = {}
    for file in list(Path(f"/proc/{process}/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # it has just been closed
            if os.readlink(file).startswith("/memfd:"):
                status = file.stat()
                found[status.st_ino] = 512 * status.st_blocks
    return found


def _run_apart(name: str, workload: Workload, clock: str, look: Callable[[int], None] | None) -> Cost:
    """Run in a fork of this process, which has all imports and has read no data."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(name, workload, clock, theirs))
    process.start()
    theirs.close()
    assert process.pid is not None
    while look is not None and not ours.poll(_LOOK_S):
        look(process.pid)
    try:
        cost: Cost = ours.recv()
    except EOFError as error:
        raise RuntimeError(f"the pipeline {name!r} failed; what it printed says why") from error
    finally:
        process.join()
    return cost


def _run(name: str, workload: Workload, clock: str, result: Connection) -> None:
    torch.set_num_threads(1)
    start = time.perf_counter()
    first_batch = 0.0
    arrivals = []
    for stamped in islice(PIPELINES[name](workload), workload.batches):
        first_batch = first_batch or time.perf_counter() - start
        arrivals.append(Arrival(stamped.stamp, time.process_time()))
    result.send(cost_of(arrivals, first_batch, clock))
