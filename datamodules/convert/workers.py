"""Prepares media in worker processes that may crash or hang, and returns the results in order.

A decoder may crash its process on a damaged file. Then all unfinished jobs are run again, one at a time, to find the
file that crashes; the others are not affected.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from datamodules.convert.prepare_media import MediaJob, Preparation, PreparedMedia, prepare
from datamodules.convert.row_problems import Reason, RowProblem, unforeseen

_TIMEOUT_S = 120
"""A process that makes no progress for so many seconds is ended."""

_JOBS_PER_WORKER = 4
"""Limit of unfinished jobs, which limits memory and temporary files."""

Outcome = PreparedMedia | RowProblem


def prepare_all(
    jobs: Iterable[MediaJob | None], preparation: Preparation, num_workers: int
) -> Iterator[Outcome | None]:
    """Prepare samples, several at a time.

    Args:
        jobs: Media to prepare; None for a sample without media.
        preparation: How to prepare them.
        num_workers: Processes; 0 = this process, which a crash ends.

    Yields:
        The outcome of every job, in order; None for None.
    """
    if num_workers == 0:
        for job in jobs:
            yield None if job is None else _outcome(job, preparation)
        return
    pool = _Pool(preparation, num_workers)
    try:
        for job in jobs:
            pool.add(job)
            if len(pool.jobs) >= _JOBS_PER_WORKER * num_workers:
                yield pool.next_outcome()
        while pool.jobs:
            yield pool.next_outcome()
    finally:
        pool.close()


class _Job:
    def __init__(self, wanted: MediaJob | None) -> None:
        self.wanted = wanted
        self.future: Future[Outcome] | None = None
        self.outcome: Outcome | None = None

    @property
    def was_lost(self) -> bool:
        """Whether its process ended before it finished, because of this job or another."""
        if self.future is None or self.outcome is not None:
            return False
        return self.future.cancelled() or isinstance(self.future.exception(), BrokenProcessPool)


class _Pool:
    """Worker processes and their jobs."""

    def __init__(self, preparation: Preparation, num_workers: int) -> None:
        self._preparation = preparation
        self._num_workers = num_workers
        self._executor = self._start(num_workers)
        self.jobs: deque[_Job] = deque()

    def add(self, wanted: MediaJob | None) -> None:
        """Start a job."""
        job = _Job(wanted)
        if wanted is not None:
            try:
                job.future = self._executor.submit(_work, wanted)
            except BrokenProcessPool:
                self._recover()
                job.future = self._executor.submit(_work, wanted)
        self.jobs.append(job)

    def next_outcome(self) -> Outcome | None:
        """Wait for the oldest job."""
        job = self.jobs[0]
        if job.future is not None and job.outcome is None:
            try:
                job.outcome = job.future.result()
            except BrokenProcessPool:
                self._recover()
        return self.jobs.popleft().outcome

    def close(self) -> None:
        """End the processes."""
        self._executor.shutdown(cancel_futures=True)

    def _recover(self) -> None:
        self._executor.shutdown(cancel_futures=True)
        alone = self._start(1)
        for job in self.jobs:
            if job.was_lost and job.wanted is not None:
                try:
                    job.outcome = alone.submit(_work, job.wanted).result()
                except BrokenProcessPool:
                    job.outcome = _crashed(job.wanted)
                    alone.shutdown()
                    alone = self._start(1)
        alone.shutdown()
        self._executor = self._start(self._num_workers)

    def _start(self, num_workers: int) -> ProcessPoolExecutor:
        # A forked process would inherit the open plan and half-written shard.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(num_workers, context, _start_worker, (self._preparation,))


def _crashed(wanted: MediaJob) -> RowProblem:
    why = f"{wanted.media} crashed the decoder, or made no progress for {_TIMEOUT_S} s; encode it again"
    return RowProblem(Reason.CRASHED, why)


_preparation: Preparation | None = None  # of a worker process


def _start_worker(preparation: Preparation) -> None:
    global _preparation
    _preparation = preparation
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even if a library does not return
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # nobody waits for results, and another run may use the scratch folder now


def _work(wanted: MediaJob) -> Outcome:
    assert _preparation is not None
    _restart_timer()
    try:
        return _outcome(wanted, _preparation)
    finally:
        signal.alarm(0)


def _restart_timer() -> None:
    if _preparation is not None:
        signal.alarm(_TIMEOUT_S)


def _outcome(wanted: MediaJob, preparation: Preparation) -> Outcome:
    try:
        return prepare(wanted, preparation, _restart_timer)
    except Exception as error:  # a file may hold any bytes: an unexpected error costs its own sample only
        preparation.scratch_file(wanted).unlink(missing_ok=True)
        return error if isinstance(error, RowProblem) else unforeseen(wanted.media, error)
