"""Runs jobs on threads of their own, for a server whose event loop must not wait."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

T = TypeVar("T")


class AnswerCancelledError(Exception):
    """Nobody waits for this job any longer."""


class CancelFlag:
    """Tells a job that nobody waits for it any longer."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Cancel the job."""
        self._event.set()

    def check(self) -> None:
        """End the job if it is cancelled.

        Raises:
            AnswerCancelledError: It is.
        """
        if self._event.is_set():
            raise AnswerCancelledError


class WorkerThread:
    """A thread that runs jobs in the order in which they come, without gradients.

    Args:
        name: Name of the thread.
        number: Number of threads; with several, jobs end in any order.
    """

    def __init__(self, name: str, number: int = 1) -> None:
        self._executor = ThreadPoolExecutor(max_workers=number, thread_name_prefix=name)

    async def run(self, job: Callable[[CancelFlag], T], dispose: Callable[[T], None] | None = None) -> T:
        """Run a job and wait for it. If the caller is cancelled, so is the job; one that has not begun never does.

        Args:
            job: Gets a flag to check from time to time.
            dispose: Gets the result if the caller is cancelled meanwhile.
        """
        flag = CancelFlag()

        def run_without_gradients() -> T:
            flag.check()
            with torch.no_grad():  # the setting belongs to the thread
                return job(flag)

        future = self._executor.submit(run_without_gradients)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if dispose is not None:
                future.add_done_callback(partial(_dispose, dispose))
            raise
        finally:
            flag.set()

    def run_later(self, job: Callable[[], object]) -> None:
        """Run a short job after those that were given before, and do not wait for it."""
        try:
            self._executor.submit(job)
        except RuntimeError:  # the thread has stopped
            job()

    def stop(self) -> None:
        """Finish the jobs that were given, and end."""
        self._executor.shutdown(wait=True)


def _dispose(dispose: Callable[[T], None], future: "Future[T]") -> None:
    if not future.cancelled() and future.exception() is None:
        dispose(future.result())
