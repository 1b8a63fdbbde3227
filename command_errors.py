"""Runs a command so that its last line says what went wrong. Every command of this project uses it.

An error that this project raises on purpose says what is wrong and what to do. It is printed as one line
``error: ...`` without a traceback, and the exit status is 2. Any other exception is a bug, or an input that was not
foreseen: its traceback is printed first, and the exit status is 70. ``MEMBRIDGE_TRACEBACK=1`` prints the traceback in
every case.

This module imports only the standard library, so that every package can import it and a command starts at once.
"""

import dis
import errno
import hashlib
import io
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

TRACEBACK = "MEMBRIDGE_TRACEBACK"
REFUSED = 2
"""Exit status after a wrong input or a wrong command line."""
CRASHED = 70
"""Exit status after any other exception: EX_SOFTWARE of BSD's ``sysexits.h``."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells."""

_ROOT = Path(__file__).resolve().parent
_RAISE = dis.opmap["RAISE_VARARGS"]
_OF_FAULTS = (AssertionError, NotImplementedError)
_IN_WORKER = re.compile(r"Caught (\w+) in DataLoader worker process \d+\.\nOriginal Traceback", re.DOTALL)
_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space, or write to another disk",
    errno.EDQUOT: "the disk quota is used up: free some space, or write to another disk",
    errno.EROFS: "the file system is read-only: write to another folder",
    errno.EACCES: "this user may not do that: change the permissions, or choose another path",
    errno.EPERM: "this user may not do that: change the permissions, or choose another path",
    errno.EMFILE: "too many files are open: raise the limit with 'ulimit -n', or use fewer data workers",
    errno.ENFILE: "too many files are open on this machine: use fewer data workers",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter path",
    errno.ENOTDIR: "a part of the path is a file where a folder is needed: choose another path",
    errno.EISDIR: "it is a folder where a file is needed: choose another path",
    errno.ENOENT: "it is not there: check the path",
}


def _identity(pid: int) -> str:
    """A process by number and start time, because numbers are used again."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[19]
    except OSError:
        return str(pid)
    return f"{pid} {started}"


_PARENT_IDENTITY = _identity(os.getppid())
"""Read at import: the first rank may have ended when its children fail, and they then have another parent."""
_GIVEN = dict(os.environ)
"""Read at import: Lightning removes the number of ranks from it before an error is reported."""
_STARTED_BY_LAUNCHER = "TORCHELASTIC_RUN_ID" in _GIVEN or int(_GIVEN.get("SLURM_NTASKS") or 1) > 1


def run_and_exit(main: Callable[[], object]) -> NoReturn:
    """Run a command and end the process with its status.

    Args:
        main: The command. A number that it returns is the exit status; anything else means success.

    Raises:
        SystemExit: Always; that is how the process ends.
    """
    for stream in (sys.stdout, sys.stderr):  # a file's name or an answer may have what the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main()
    except SystemExit as ending:
        if isinstance(ending.__context__, KeyboardInterrupt):  # Lightning makes a status of 1 of it
            _interrupted()
        if isinstance(ending.code, str):
            print(f"error: {ending.code.removeprefix('error: ')}", file=sys.stderr, flush=True)
            sys.exit(REFUSED)
        raise
    except KeyboardInterrupt:
        _interrupted()
    except BrokenPipeError:  # the reader of the output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(CRASHED)
    except Exception as error:
        sys.exit(report(error))
    _leave_process_group()
    # Not of type bool: a command that gives True has not failed.
    sys.exit(status if type(status) is int else 0)


def _leave_process_group() -> None:
    """Leave the group of a run's processes: its threads could abort the process at the interpreter's end."""
    distributed: Any = getattr(sys.modules.get("torch"), "distributed", None)  # a command without torch has no group
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def report(error: Exception) -> int:
    """Print what went wrong, once for all processes of a run on this machine that fail with the same message.

    Args:
        error: The exception that ended the command.

    Returns:
        The exit status.
    """
    line = explain(error)
    message = f"{type(error).__name__}: {error}" if line is None else line
    if _is_first_to_say(message):
        if line is None or os.environ.get(TRACEBACK, "0") not in ("", "0"):
            traceback.print_exception(error)
        print(f"error: {message}", file=sys.stderr, flush=True)
    return CRASHED if line is None else REFUSED


def explain(error: BaseException) -> str | None:
    """The message for the user about an error.

    Args:
        error: The error.

    Returns:
        The message, if the error is for the user; None for a bug.
    """
    worker = _IN_WORKER.match(str(error))
    if worker:
        return _explain_text(str(error), worker[1])
    remote = getattr(error.__cause__, "tb", None)  # of a process pool's worker
    if isinstance(remote, str):
        return _explain_text(remote.strip().strip('"').rstrip(), type(error).__name__)
    if isinstance(error, OSError) and error.errno in _ADVICE:
        return _explain_refusal(error, _ADVICE[error.errno])
    if isinstance(error, RecursionError) and _was_parsing(error.__traceback__):
        return "a JSON or YAML file that this command reads is nested too deeply; check the files that it was given"
    if _was_raised_here(error.__traceback__) and not isinstance(error, _OF_FAULTS):
        return str(error) or type(error).__name__
    if type(error).__name__ == "OutOfMemoryError":  # of torch
        return (
            f"{str(error).splitlines()[0]} Take a smaller data.loading.batch_size or budget, or a config of "
            "configs/strategy that keeps less on each device (docs/cluster.md)"
        )
    if type(error).__name__ == "MisconfigurationException":  # of Lightning, about the settings of its trainer
        return " ".join(str(error).split())
    return None


def _explain_refusal(error: OSError, advice: str) -> str:
    path = error.filename if isinstance(error.filename, str | bytes) else "a file that this command reads or writes"
    free = ""
    if error.errno == errno.ENOSPC and isinstance(error.filename, str | bytes):
        there = next(parent for parent in Path(os.fsdecode(path)).resolve().parents if parent.exists())
        free = f" ({shutil.disk_usage(there).free / 1e6:,.1f} MB are free there)"
    return f"{os.fsdecode(path)}: {error.strerror}{free}; {advice}"


def _was_raised_here(trace: TracebackType | None) -> bool:
    """Whether a ``raise`` in this project's own code began the error.

    An operation that fails in this project's code, such as a missing attribute, is a bug.
    """
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return _is_own(code.co_filename) and code.co_code[trace.tb_lasti] == _RAISE


def _was_parsing(trace: TracebackType | None) -> bool:
    """Whether a parser of JSON or YAML was running."""
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").split(".")[0] in ("json", "yaml"):
            return True
        trace = trace.tb_next
    return False


def _is_own(file: str) -> bool:
    path = Path(file).resolve()
    return path.is_relative_to(_ROOT) and "site-packages" not in path.relative_to(_ROOT).parts


def _explain_text(text: str, kind: str) -> str | None:
    """Find the message in a traceback that a worker process sent as text."""
    frames = re.findall(r'^ *File "([^"]+)", line \d+, in .*\n +(.*)$', text, re.MULTILINE)
    _, found, message = text.rpartition(f"\n{kind}: ")
    if not found:
        _, found, message = text.rpartition(f".{kind}: ")  # a class is printed with its module
    if not frames or not found or not _is_own(frames[-1][0]) or not frames[-1][1].startswith("raise"):
        return None
    return message.strip()


def _interrupted() -> NoReturn:
    if _is_first_to_say("interrupted"):
        print("\nStopped by Ctrl-C", file=sys.stderr, flush=True)
    sys.exit(INTERRUPTED)


def _is_first_to_say(message: str) -> bool:
    """Whether no other process of this run has printed the message on this machine.

    Ranks usually fail with the same message. A file shows that one has printed it. Its name contains the process that
    started all ranks, and the start time of that process.
    """
    is_child = _STARTED_BY_LAUNCHER or _GIVEN.get("LOCAL_RANK", "0") != "0"
    if not is_child and "LOCAL_RANK" not in os.environ:  # Lightning sets it where it starts the other ranks
        return True
    group = _PARENT_IDENTITY if is_child else _identity(os.getpid())
    name = hashlib.sha256(f"{os.getuid()} {group} {message}".encode()).hexdigest()[:24]
    try:
        Path(tempfile.gettempdir(), f"membridge-said-{name}").open("x").close()
    except FileExistsError:
        return False
    except OSError:  # without a file, printing twice is better than not at all
        return True
    return True
