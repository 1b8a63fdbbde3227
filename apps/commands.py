"""Runs the project's commands, each in a process of its own, from the project's root folder."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_LINES_OF_A_FAILURE = 30


def run_command(command: Sequence[str]) -> None:
    """Print one of the project's commands and run it.

    Args:
        command: Arguments of ``python``, such as ``["train.py", "fit", ...]``.

    Raises:
        SystemExit: The command failed; its own message is printed above.
    """
    print("$ python " + " ".join(command), flush=True)
    finished = subprocess.run([sys.executable, *command], cwd=ROOT, check=False, env=environment())
    if finished.returncode:
        raise SystemExit(f"stopped: the command above ended with status {finished.returncode}")


def run_together(commands: Mapping[str, Sequence[str]], logs: Path) -> None:
    """Run several commands at the same time, each on its share of the cores.

    A small model uses one core well but not two, so this is faster than one after another. The first command prints as
    usual, the others into files.

    Args:
        commands: Name -> arguments of ``python``.
        logs: Folder of the files, ``NAME.log``.

    Raises:
        SystemExit: A command failed; its last lines are printed first, and the others are stopped.
    """
    threads = max(1, usable_cores() // len(commands))
    variables = {"OMP_NUM_THREADS": str(threads), **environment()}  # a number set by the user wins
    logs.mkdir(parents=True, exist_ok=True)
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for number, (name, command) in enumerate(commands.items()):
            log = logs / f"{name}.log"
            print("$ python " + " ".join(command) + (f" > {log}" if number else ""), flush=True)
            with log.open("wb") as file:
                output = file if number else None
                running[name] = subprocess.Popen(
                    [sys.executable, *command], cwd=ROOT, env=variables, stdout=output, stderr=output
                )
        waiting = dict(running)
        while waiting:
            for name, process in list(waiting.items()):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.2)
                    del waiting[name]
                    _check_status(name, process.returncode, logs / f"{name}.log")
    finally:
        for process in running.values():
            if process.poll() is None:
                process.terminate()
                process.wait()


def _check_status(name: str, status: int, log: Path) -> None:
    if status:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        print("\n".join(lines[-_LINES_OF_A_FAILURE:]), flush=True)  # the first command has no log: it has printed them
        raise SystemExit(f"stopped: the command of {name} ended with status {status}")


def usable_cores() -> int:
    """Number of cores that this process may use, by its CPU affinity and by the limit of its control group."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")  # of control groups, version 2: QUOTA PERIOD, or max PERIOD
    if quota.is_file():
        given, period = quota.read_text(encoding="utf-8").split()
        if given != "max":
            cores = min(cores, max(1, int(given) // int(period)))
    return cores


def environment() -> dict[str, str]:
    """Environment variables of these processes."""
    return {
        # If other programs use all cores, threads that spin while waiting take most of the time: a training step of the
        # quickstart was then 20 times slower than with threads that sleep.
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "0",  # the same for builds of torch with Intel's OpenMP
        **os.environ,
        # Parts are loaded from folders. Without this, a missing file is searched for on a hub, which is slow.
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
