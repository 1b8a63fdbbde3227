"""Keeps data workers and decoding processes alive when the whole process group gets a signal.

Ctrl-C in a terminal, ``timeout`` and some job schedulers send a signal to every process of a run. The training process
then saves and stops, and needs its workers for that. They end when it closes them, and when it has ended.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that a worker ignores."""

_HELD = (*IGNORED, signal.SIGTERM)
_PARENT_CHECK_S = 2.0


@contextlib.contextmanager
def signals_held_in_children() -> Iterator[None]:
    """Start processes inside this block with the signals blocked.

    A new process has no signal handlers yet, so a signal would end it. This process gets its own signals when it leaves
    the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def outlive_signals(worker: int) -> None:
    """Let only the parent process end a data worker; a ``worker_init_fn`` of torch's data loader.

    The parent ends a worker that does not react with SIGTERM. So a thread of the worker receives it and checks its
    sender. A handler in Python would not know the sender, and would not run while a library is busy.

    Args:
        worker: The worker's number; not used.
    """
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    """End this process at a SIGTERM of its parent, or when the parent has ended.

    torch's own check for the parent runs between batches. It is never reached if the parent was killed while it held a
    lock that the worker waits for.
    """
    parent = os.getppid()
    while os.getppid() == parent:
        received = signal.sigtimedwait([signal.SIGTERM], _PARENT_CHECK_S)
        if received is not None and received.si_pid in (parent, os.getpid()):
            break
    os._exit(0)
