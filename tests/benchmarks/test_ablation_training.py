"""The runs of a sweep: trained, kept, resumed."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from apps.commands import ROOT
from benchmarks.ablation import training
from benchmarks.ablation.runs import Run, runs_of
from benchmarks.ablation.sweep_file import read_sweep
from benchmarks.ablation.three_tasks import (
    FRESH,
)
from benchmarks.ablation.training import train_runs
from tests.benchmarks.ablation_files import ARMS, small_sweep, sweep_content, write_noise, write_sweep


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_noise(tmp_path)


class Commands:
    """Stands in for the processes of a sweep: writes what they would write, and fails where told to."""

    def __init__(self) -> None:
        self.run: list[list[str]] = []
        self.failing = ""

    def __call__(self, command: list[str], log: Any) -> None:
        self.run.append(command)
        if self.failing and self.failing in " ".join(command):
            raise RuntimeError("the process ended with status 1")
        if command[0] == "train.py":
            option = "--trainer.logger.init_args."
            place = [Path(command[command.index(option + name) + 1]) for name in ("save_dir", "name", "version")]
            target = Path(*place) / "checkpoints" / "final.ckpt"
        else:
            target = Path(command[command.index("--out") + 1]) / "report.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("{}")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    fake = Commands()
    monkeypatch.setattr(training, "run_logged", fake)
    return fake


def runs(data: Path, *arms: str, **changes: Any) -> list[Run]:
    """Runs of a small sweep, read anew from its file."""
    return runs_of(small_sweep(data, **changes), arms or None)


def test_finished_runs_are_kept_and_new_seeds_are_added(data: Path, commands: Commands) -> None:
    assert train_runs(runs(data, "both", "grid_memory"), jobs=2) == []
    assert len(commands.run) == 4
    commands.run.clear()
    assert train_runs(runs(data, "both", seeds=[0, 1]), jobs=2) == []
    assert len(commands.run) == 2
    assert all("seed-1" in " ".join(command) for command in commands.run)


def test_stopped_training_goes_on_from_its_last_checkpoint(data: Path, commands: Commands) -> None:
    (run,) = runs(data, "both")
    commands.failing = "evaluate.py"
    assert train_runs([run], jobs=1) == [run]
    commands.failing = ""
    commands.run.clear()
    run.checkpoint.rename(run.last_checkpoint)
    assert train_runs([run], jobs=1) == []
    assert commands.run[0][-2:] == ["--ckpt_path", str(run.last_checkpoint)]


def test_training_is_not_repeated_where_only_the_evaluation_failed(data: Path, commands: Commands) -> None:
    (run,) = runs(data, "both")
    commands.failing = "evaluate.py"
    train_runs([run], jobs=1)
    commands.failing = ""
    commands.run.clear()
    assert train_runs([run], jobs=1) == []
    assert [command[0] for command in commands.run] == ["evaluate.py"]


def test_finished_runs_answer_fresh_questions_once_these_are_there(data: Path, commands: Commands) -> None:
    train_runs(runs(data, "both"), jobs=1)
    commands.run.clear()
    (data / FRESH / "features").mkdir(parents=True)
    (run,) = runs(data, "both")
    assert not run.is_evaluated
    assert train_runs([run], jobs=1) == []
    assert [command[0] for command in commands.run] == ["evaluate.py"]
    assert str(data / FRESH / "features/eval-*.tar") in commands.run[0]
    assert run.is_evaluated


def test_a_failing_run_does_not_stop_the_others(
    data: Path, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    both, mean = runs(data, "both", "mean_pooling")
    commands.failing = "replacing_memory.yaml"
    assert train_runs([both, mean], jobs=1) == [both]
    assert mean.is_evaluated
    assert "both, seed 0 failed: the process ended" in capsys.readouterr().err


def test_no_run_begins_after_the_time_is_over(
    data: Path, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = runs(data)
    assert train_runs(asked, jobs=1, hours=0.0) == []
    assert commands.run == []
    assert "grid_memory, seed 0: not begun within 0 hours" in capsys.readouterr().err
    assert train_runs(asked, jobs=1, hours=1.0) == []
    assert all(run.is_evaluated for run in asked)


def test_a_run_that_another_process_trains_is_passed_over(
    data: Path, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    both, mean = runs(data, "both", "mean_pooling")
    both.folder.mkdir(parents=True)
    with both.log.open("a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        # As after a killed sweep: a process that it started still has the file.
        child = subprocess.Popen(["sleep", "60"], stdout=log)
    try:
        assert train_runs([both, mean], jobs=1) == []
        assert not both.is_evaluated
        assert mean.is_evaluated
        assert "both, seed 0: another process trains or evaluates it" in capsys.readouterr().err
    finally:
        child.kill()
        child.wait()
    assert train_runs([both, mean], jobs=1) == []
    assert both.is_evaluated


def test_a_file_system_without_locks_is_no_obstacle(
    data: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    (run,) = runs(data, "both")
    assert train_runs([run], jobs=1) == []
    assert run.is_evaluated


def test_runs_of_other_settings_are_refused_before_anything_is_trained(data: Path, commands: Commands) -> None:
    train_runs(runs(data, "both"), jobs=1)
    commands.run.clear()
    longer = {"trainer.max_steps": 4, "data.order.curriculum": [], "data.loading.batch_size": 4}
    with pytest.raises(ValueError, match=r"runs/both/seed-0 \(steps, set\).*Remove or rename"):
        train_runs(runs(data, "mean_pooling", "both", set=longer), jobs=1)
    (data / "features/features.json").write_text('{"other": 1}')
    with pytest.raises(ValueError, match=r"seed-0 \(features\)"):
        train_runs(runs(data, "both"), jobs=1)
    assert commands.run == []


def test_without_data_training_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"benchmarks.ablation -c .*sweep.yaml --only prepare"):
        train_runs(runs(tmp_path, "both"), jobs=1)


@pytest.mark.slow
def test_a_run_that_was_killed_in_training_goes_on_from_its_checkpoint(data: Path) -> None:
    settings = sweep_content(data)["set"] | {"trainer.max_steps": 8, "checkpoint.every_n_steps": 1}
    file = write_sweep(data, arms={"both": ARMS["both"]}, set=settings)
    (run,) = runs_of(read_sweep(file))
    command = [sys.executable, "-m", "benchmarks.ablation", "-c", str(file), "--only", "train"]
    first = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE)
    while first.poll() is None and not run.last_checkpoint.exists():
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    assert run.last_checkpoint.exists(), first.communicate()[1][-2000:]
    first.wait()
    assert not run.checkpoint.exists()
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert run.is_evaluated
    begun = [line for line in run.log.read_text().splitlines() if line.startswith("$ python train.py")]
    assert [f"--ckpt_path {run.last_checkpoint}" in line for line in begun] == [False, True]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_stopped_and_reports_every_arm(data: Path, tmp_path: Path) -> None:
    file = write_sweep(data, arms={name: ARMS[name] for name in ("both", "mean_pooling")})
    places = ["--results", str(tmp_path / "RESULTS.md"), "--picture", str(tmp_path / "plot.png")]
    command = [sys.executable, "-m", "benchmarks.ablation", "-c", str(file), *places]
    first = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE)
    report = data / "runs/both/seed-0/answers/report.json"
    while first.poll() is None and not report.exists():
        time.sleep(0.1)
    assert report.exists(), first.communicate()[1][-2000:]
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    made = report.stat().st_mtime
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert report.stat().st_mtime == made  # the finished arm was not evaluated again
    page = (tmp_path / "RESULTS.md").read_text()
    both = next(line for line in page.splitlines() if line.startswith("| both |"))
    assert [cell.strip() for cell in both.split("|")[2:7]][:3] == ["1", "2", "8"]  # seeds, steps, frames of 2x
    measured = json.loads((data / "runs/mean_pooling/seed-0/measures.json").read_text())
    # A frame of 9 patches of width 384 in float32, and the number of frames in a sum: the same for any length.
    assert {of["visual_tokens"] for of in measured["by_length"].values()} == {9}
    assert {of["state_bytes"] for of in measured["by_length"].values()} == {4 * (9 * 384 + 1)}
    assert [of["frames"] for of in measured["by_length"].values()] == [4, 8]
    assert measured["peak_mib"] > 50
    ranks = json.loads((data / "runs/both/seed-0/measures.json").read_text())["rank"]
    assert all(1 <= of["mean"] <= of["num_memory"] == 16 for of in ranks.values())
    assert measured["rank"] == {}
