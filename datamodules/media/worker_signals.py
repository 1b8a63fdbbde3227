"""Keeps data workers and decoding processes alive when the whole process group gets a signal.

Ctrl-C in a terminal, ``timeout`` and some job schedulers send a signal to every process of a run. The training process
then saves and stops, for which it still needs its workers. They end when it closes them, and when it is gone.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""What a worker never acts on."""

_HELD = (*IGNORED, signal.SIGTERM)


@contextlib.contextmanager
def signals_held_in_children() -> Iterator[None]:
    """Let processes that are started here begin with these signals blocked.

    A process that has just begun has set up nothing yet, and would die of a signal. This process gets its own signals
    a moment later, when it leaves the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def outlive_signals(worker: int) -> None:
    """Have a data worker end for its parent process alone; a ``worker_init_fn`` of torch's data loader.

    SIGTERM is how the parent itself ends a worker that does not react. So a thread of the worker receives it and looks
    who has sent it: a handler in Python is not told that, and neither runs while a library is busy.

    Args:
        worker: The worker's number, which changes nothing.
    """
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    while True:
        sender = signal.sigwaitinfo([signal.SIGTERM]).si_pid
        if sender in (os.getppid(), os.getpid()):
            os._exit(0)
