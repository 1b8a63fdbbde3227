"""Stops real runs with signals to their whole process group, as a terminal, ``timeout`` and some schedulers do."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fixtures_data import make_samples, write_shard
from tests.fixtures_models import PartFolders
from tests.fixtures_training import write_run_config
from tests.process_group import one_group_at_a_time

pytestmark = [pytest.mark.usefixtures("default_signals"), one_group_at_a_time]

ROOT = Path(__file__).resolve().parents[1]
ENDLESS = ["--trainer.max_steps=100000", "--trainer.limit_val_batches=0", "--data.loading.num_workers=1"]


def stop(folder: Path, folders: PartFolders, options: list[str], numbers: list[int]) -> tuple[int, str]:
    """Train until the signals come; gives the exit status and what was printed."""
    shard = str(write_shard(folder / "shard.tar", make_samples(6)))
    config = write_run_config(folder, folders, dict.fromkeys(("train", "validation", "predict"), shard))
    command = ["train.py", "fit", "-c", str(config), f"--run_folder={folder}/run", *ENDLESS, *options]
    log = folder / "log"
    with log.open("w") as output:
        run = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 200
        while "This run" not in log.read_text() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(2)
        for number in numbers:
            os.killpg(run.pid, number)
            time.sleep(0.2)
        return run.wait(60), log.read_text()
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)


TWO = ["--trainer.devices=2", "--data.loading.batch_size=4"]


@pytest.mark.parametrize(
    ("number", "status", "options"),
    [
        pytest.param(signal.SIGINT, 130, [], marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 75, TWO, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, TWO, marks=pytest.mark.nightly),
        pytest.param(signal.SIGTERM, 75, [], marks=pytest.mark.nightly),
    ],
)
def test_a_signal_to_all_processes_of_a_run_saves_and_stops(
    number: int, status: int, options: list[str], tmp_path: Path, folders: PartFolders
) -> None:
    """Each signal and each number of processes once: which signal came decides the status only."""
    ended, printed = stop(tmp_path, folders, options, [number])
    assert ended == status, printed
    assert "Traceback" not in printed
    assert printed.count(f"to go on from {tmp_path}/run/checkpoints/last.ckpt") == 1
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt" / "index.json").is_file()
    assert not (tmp_path / "run" / "run.lock").exists()


@pytest.mark.slow
def test_ctrl_c_twice_stops_two_processes_at_once(tmp_path: Path, folders: PartFolders) -> None:
    ended, printed = stop(tmp_path, folders, TWO, [signal.SIGINT, signal.SIGINT])
    assert ended == 130, printed
    assert "Traceback" not in printed
