"""Starts a group of training processes as torchrun would, and never leaves one behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import process_end

_SECONDS_TO_FOLLOW = 20.0  # for the others, once one rank has failed
ROOT = Path(__file__).resolve().parents[1]

one_group_at_a_time = pytest.mark.xdist_group("groups of processes")
"""Marks slow tests that start several processes: one worker of pytest-xdist runs them all, beside other tests."""


def run_processes(
    module: str,
    arguments: Sequence[str],
    num_processes: int,
    timeout: float = 280.0,
    *,
    folder: Path = ROOT,
    num_nodes: int = 1,
) -> None:
    """Run ``python -m module`` once for every rank and wait for all.

    Args:
        module: What to run.
        arguments: Its arguments, the same for every rank.
        num_processes: Ranks.
        timeout: Seconds after which the group counts as hung.
        folder: Where the processes run.
        num_nodes: Nodes that they are shared out over, as their environment tells them.

    Raises:
        AssertionError: A rank failed or hung; what all of them printed is in the message. They are killed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", process_end.__name__, module, *arguments],
            cwd=folder,
            env=_environment(rank, num_processes, port, num_nodes),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # its data workers die with it
        )
        for rank in range(num_processes)
    ]
    try:
        outputs: list[str] = []
        for rank, process in enumerate(started):
            failed = any(earlier.returncode for earlier in started[:rank])
            output = _wait(process, _SECONDS_TO_FOLLOW if failed else timeout)
            outputs.append(f"rank {rank} of {num_processes} ended with {process.returncode}:\n{output}")
        assert not any(process.returncode for process in started), "\n".join(outputs)
    finally:
        for process in started:
            _kill(process)


def _wait(process: "subprocess.Popen[str]", timeout: float) -> str:
    try:
        return process.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler prints where every thread stands
        time.sleep(2)
        _kill(process)
        return f"it hung for {timeout:g} s\n{process.communicate()[0]}"


def _kill(process: "subprocess.Popen[str]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _environment(rank: int, num_processes: int, port: int, num_nodes: int) -> dict[str, str]:
    node, local_rank = divmod(rank, num_processes // num_nodes)
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": num_processes, "RANK": rank}
    own = {"LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": num_processes // num_nodes, "GROUP_RANK": node}
    named = {**group, **own, "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": 1, "PYTHONPATH": ROOT}
    return {**os.environ, **{name: str(value) for name, value in named.items()}}
