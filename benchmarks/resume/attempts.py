"""Starts training, and kills it with SIGKILL."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple

from apps.commands import ROOT, environment
from benchmarks.resume.history import History, read_attempt
from benchmarks.resume.workload import Run, write_config

_LONGEST_WAIT_S = 600.0
_POLL_S = 0.002
_POLL_SAVING_S = 0.0002  # a small checkpoint is on disk within milliseconds


class Ended(NamedTuple):
    """How an attempt ended."""

    steps: History
    startup_seconds: float | None  # until its first steps; None if they were not waited for
    killed_while_saving: bool


class Attempt:
    """One start of ``train.py``, from the last checkpoint if there is one, with all of its processes.

    At the end of the ``with`` block all processes that still run are killed.

    Args:
        run: What is trained.
        number: Number of the attempt in its run.
        processes: Training processes.
    """

    def __init__(self, run: Run, number: int, processes: int) -> None:
        records = run.folder / f"attempt-{number:02d}"
        config = write_config(run, records, processes=processes)
        last = run.checkpoints / "last.ckpt"
        command = ["train.py", "fit", "-c", "configs/base.yaml", "-c", str(config)]
        command += ["--ckpt_path", str(last)] if last.exists() else []
        self._checkpoints = run.checkpoints
        self._records = records
        self._unfinished_before = self._unfinished()
        self._log = (records / "log.txt").open("wb")
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**environment(), "OMP_NUM_THREADS": "1"},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its other ranks and its data workers are killed with it
        )

    def __enter__(self) -> "Attempt":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()
        self._log.close()

    def finish(self) -> Ended:
        """Wait for the end of the run.

        Raises:
            RuntimeError: It failed or hung; the end of its log is in the message.
        """
        self._wait(lambda: self._process.poll() is not None, "its end")
        if self._process.returncode:
            raise RuntimeError(f"training ended with status {self._process.returncode}; {self._tail()}")
        return self._ended(None)

    def kill_after_steps(self, steps: int, delay_s: float) -> Ended:
        """Kill it a random time after this many steps."""
        self._wait(lambda: self._finished_steps() >= steps, f"{steps} steps", alive=True)
        first = time.monotonic()
        time.sleep(delay_s)
        self._refuse_ended()
        self._kill()
        return self._ended(first)

    def kill_while_saving(self, steps: int) -> Ended:
        """After this many steps, kill it while it writes a checkpoint."""
        self._wait(lambda: self._finished_steps() >= steps, f"{steps} steps", alive=True)
        first = time.monotonic()
        before = self._unfinished()
        self._wait(
            lambda: self._unfinished() != before, "a checkpoint being written", alive=True, poll_s=_POLL_SAVING_S
        )
        self._kill()
        return self._ended(first)

    def kill_after_seconds(self, seconds: float) -> Ended:
        """Kill it this many seconds after its start."""
        time.sleep(seconds)
        self._refuse_ended()
        self._kill()
        return self._ended(None)

    def _ended(self, first_step_at: float | None) -> Ended:
        startup = None if first_step_at is None else first_step_at - self._began
        interrupted = bool(self._unfinished() - self._unfinished_before)
        return Ended(read_attempt(self._records), startup, interrupted)

    def _finished_steps(self) -> int:
        return len(read_attempt(self._records))

    def _unfinished(self) -> set[tuple[str, int]]:
        """Unfinished checkpoint files: name and time of each."""
        found = set()
        for path in self._checkpoints.glob(".*.writing"):
            try:
                found.add((path.name, path.stat().st_ctime_ns))
            except FileNotFoundError:  # renamed meanwhile, so it is complete
                continue
        return found

    def _wait(self, reached: Callable[[], bool], what: str, *, alive: bool = False, poll_s: float = _POLL_S) -> None:
        end = time.monotonic() + _LONGEST_WAIT_S
        while not reached():
            if alive:
                self._refuse_ended()
            if time.monotonic() > end:
                raise RuntimeError(f"waited {_LONGEST_WAIT_S:g} s for {what}; {self._tail()}")
            time.sleep(poll_s)

    def _refuse_ended(self) -> None:
        if self._process.poll() is not None:
            raise RuntimeError(
                f"training ended by itself with status {self._process.returncode} before it was killed; {self._tail()}"
            )

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        finally:
            self._process.wait()

    def _tail(self) -> str:
        return "its log ends:\n" + (self._records / "log.txt").read_text(encoding="utf-8", errors="replace")[-3000:]
