"""Runs jobs one after another on a thread of their own, for a server whose event loop must not wait."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
    """

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, job: Callable[[CancelFlag], T]) -> T:
        """Run a job and wait for it. If the caller is cancelled, so is the job; one that has not begun never does.

        Args:
            job: Gets a flag to check from time to time.
        """
        flag = CancelFlag()

        def run_without_gradients() -> T:
            flag.check()
            with torch.no_grad():  # the setting belongs to the thread
                return job(flag)

        try:
            return await asyncio.wrap_future(self._executor.submit(run_without_gradients))
        finally:
            flag.set()

    def stop(self) -> None:
        """Finish the jobs that were given, and end."""
        self._executor.shutdown(wait=True)
