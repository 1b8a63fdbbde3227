import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_modules.run import run_lock
from lightning_modules.run.run_lock import FolderInUseError, Holder, RunLock


def write_lock(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / run_lock.LOCK
    path.write_text(json.dumps({**Holder.this_process()._asdict(), **changes}))
    return path


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_folder_that_a_living_process_holds_is_refused_with_host_and_pid(tmp_path: Path) -> None:
    path = write_lock(tmp_path / "run")
    with pytest.raises(FolderInUseError, match=rf"in use by process {os.getpid()} on {os.uname().nodename} since .*"):
        RunLock(tmp_path / "run").take()
    assert path.exists()


def test_a_lock_is_gone_when_it_is_released_and_never_anothers(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.take()
    assert json.loads(lock.path.read_text())["pid"] == os.getpid()
    lock.release()
    assert not lock.path.exists()
    lock.take()
    write_lock(tmp_path, pid=1)
    lock.release()
    assert lock.path.exists()


def test_the_lock_of_a_process_that_has_ended_is_taken_over(tmp_path: Path) -> None:
    write_lock(tmp_path, pid=ended_process())
    RunLock(tmp_path).take()
    assert [path.name for path in tmp_path.iterdir()] == [run_lock.LOCK]


def test_a_later_process_with_the_same_pid_is_another_one(tmp_path: Path) -> None:
    write_lock(tmp_path, process="earlier")
    RunLock(tmp_path).take()


def test_of_another_host_the_message_tells_how_to_remove_it(tmp_path: Path) -> None:
    path = write_lock(tmp_path, host="elsewhere", pid=7, job="")
    with pytest.raises(FolderInUseError, match=rf"process 7 on elsewhere .*remove {path}"):
        RunLock(tmp_path).take()


def test_a_job_that_was_started_again_on_another_host_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lock(tmp_path, host="elsewhere", job="12", restarts=0)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with pytest.raises(FolderInUseError, match=r"Slurm job 12"):
        RunLock(tmp_path).take()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    RunLock(tmp_path).take()


@pytest.mark.parametrize(
    ("script", "ended"),
    [
        ("exit 0", True),
        ("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", True),
        ("echo RUNNING", False),
        ("echo Unable to contact slurm controller >&2; exit 1", False),
    ],
)
def test_a_job_that_slurm_knows_no_more_has_ended(
    script: str, ended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "squeue"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    write_lock(tmp_path / "run", host="elsewhere", job="12")
    if ended:
        RunLock(tmp_path / "run").take()
    else:
        with pytest.raises(FolderInUseError):
            RunLock(tmp_path / "run").take()


def test_a_lock_that_cannot_be_read_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / run_lock.LOCK).write_text("")
    with pytest.raises(FolderInUseError, match="in use by another run"):
        RunLock(tmp_path).take()
