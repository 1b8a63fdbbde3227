"""Prevents two processes from writing to the same folder at the same time."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

LOCK = "run.lock"
_SLURM_S = 30.0


class FolderInUseError(RuntimeError):
    """Another run is writing to the folder."""


class Holder(NamedTuple):
    """The process that holds a folder's lock."""

    host: str
    pid: int
    process: str  # distinguishes processes that had the same pid
    job: str  # of Slurm; empty without one
    restarts: int  # how often Slurm has restarted the job
    since: str

    @classmethod
    def this_process(cls) -> "Holder":
        """A record of this process."""
        return cls(
            host=os.uname().nodename,
            pid=os.getpid(),
            process=_process(os.getpid()),
            job=os.environ.get("SLURM_JOB_ID", ""),
            restarts=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
        )

    def has_ended(self) -> bool:
        """Whether the process has certainly ended; False if that is unknown."""
        own = Holder.this_process()
        if self.host == own.host:
            return _process(self.pid) != self.process
        if self.job and self.job == own.job:
            return self.restarts < own.restarts  # a restarted job runs nowhere else
        return bool(self.job) and _slurm_job_has_ended(self.job)


class RunLock:
    """A file in a folder that names the process which writes to the folder.

    A process that ended may have left its file. The file is taken over if that is certain: the process was on this host
    and no longer exists; or it belonged to an earlier start of the same Slurm job, or to a job that Slurm no longer
    knows. Otherwise the state of a process on another host is unknown.

    Args:
        folder: The folder; created if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._own: Holder | None = None

    def take(self) -> None:
        """Acquire the lock.

        Raises:
            FolderInUseError: Another process has it; both would overwrite each other's files.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            own = Holder.this_process()
            try:
                with self.path.open("x", encoding="utf-8") as file:
                    json.dump(own._asdict(), file)
            except FileExistsError:
                self._remove_if_ended()
            else:
                self._own = own
                return

    def release(self) -> None:
        """Release the lock; does nothing if it is not held."""
        if self._own is not None and self._holder() == self._own:
            self.path.unlink(missing_ok=True)
        self._own = None

    def _remove_if_ended(self) -> None:
        holder = self._holder()
        if holder is None or not holder.has_ended():
            raise FolderInUseError(self._refusal(holder))
        # Two processes may be here at once. Only one of them can move the file that both have read.
        unwanted = self.path.with_name(f".{LOCK}.{os.uname().nodename}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path, unwanted)
            if unwanted.read_text(encoding="utf-8") != json.dumps(holder._asdict()):
                os.rename(unwanted, self.path)  # the other process was faster, and this is its file
            unwanted.unlink(missing_ok=True)

    def _holder(self) -> Holder | None:
        """The process that holds the lock; None if the file is unreadable."""
        try:
            return Holder(**json.loads(self.path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, FileNotFoundError):
            return None

    def _refusal(self, holder: Holder | None) -> str:
        if holder is None:
            who, where = "another run", "its process"
        else:
            job = f" (Slurm job {holder.job})" if holder.job else ""
            who = f"process {holder.pid} on {holder.host}{job} since {holder.since}"
            where = "that process"
        return (
            f"{self.path.parent} is in use by {who}; two runs would overwrite each other's files. Stop that run or "
            f"wait for its end, or choose another folder. If {where} is certainly gone, remove {self.path}"
        )


def _process(pid: int) -> str:
    """A unique identifier of a running process; empty if there is no such process."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, started = after_name[0], after_name[19]  # fields 3 and 22 of proc(5), started in clock ticks since boot
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return "" if state == "Z" else f"{boot}/{started}"


def _slurm_job_has_ended(job: str) -> bool:
    if shutil.which("squeue") is None:
        return False
    command = ["squeue", "--noheader", "--format=%T", "--jobs", job]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=_SLURM_S)
    except subprocess.TimeoutExpired:
        return False
    if found.returncode:
        return "Invalid job id" in found.stderr
    return not found.stdout.strip()
