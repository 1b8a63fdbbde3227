import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from datamodules.loader import LateLoader
from datamodules.media.worker_signals import outlive_signals, signals_held_in_children

SENT_TO_GROUPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class ProcessNumbers(IterableDataset[Tensor]):
    """Gives the number of the worker's process again and again."""

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield torch.tensor(os.getpid())


class StuckNumbers(ProcessNumbers):
    """Gives the number once; then waits for a lock that nobody gives back, as one of a killed process."""

    def __iter__(self) -> Iterator[Tensor]:
        yield torch.tensor(os.getpid())
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()


def make_loader(samples: type[ProcessNumbers] = ProcessNumbers) -> LateLoader:
    return LateLoader(samples(), num_workers=1, batch_size=None, worker_init_fn=outlive_signals)  # type: ignore[arg-type]


def ends(pid: int, within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("number", SENT_TO_GROUPS)
def test_a_data_worker_outlives_a_signal_from_outside(number: int) -> None:
    batches = iter(make_loader())
    pid = int(next(batches))  # type: ignore[call-overload]
    subprocess.run(["kill", f"-{number}", str(pid)], check=True)  # the parent's own SIGTERM would end it
    for _ in range(20):
        assert int(next(batches)) == pid  # type: ignore[call-overload]


def test_a_data_worker_ends_when_its_parent_ends_it() -> None:
    batches = iter(make_loader())
    pid = int(next(batches))  # type: ignore[call-overload]
    os.kill(pid, signal.SIGTERM)
    assert ends(pid)


def test_a_data_worker_ends_with_the_loader() -> None:
    batches = iter(make_loader())
    pid = int(next(batches))  # type: ignore[call-overload]
    del batches
    assert ends(pid)


@pytest.mark.parametrize("samples", ["ProcessNumbers", "StuckNumbers"])
def test_a_data_worker_ends_when_its_parent_is_killed(samples: str) -> None:
    code = (
        f"from tests.datamodules.media.test_worker_signals import {samples}, make_loader\n"
        "import os, signal\n"
        f"batches = iter(make_loader({samples}))\n"
        "print(int(next(batches)), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).resolve().parents[3]
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert ends(int(ended.stdout))


def test_a_process_that_has_just_been_started_does_not_die_of_a_signal() -> None:
    code = "import signal; print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), flush=True)"
    with signals_held_in_children():
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(signal.Signals(number).name in ended.stdout for number in SENT_TO_GROUPS)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
