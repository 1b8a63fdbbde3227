import os
from pathlib import Path

import pytest

from apps import commands
from apps.commands import ROOT, environment, run_command, run_together, usable_cores


def test_failing_command_stops_with_its_status(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="status 3"):
        run_command(["-c", "raise SystemExit(3)"])
    assert "$ python -c raise SystemExit(3)" in capfd.readouterr().out


def test_command_runs_in_the_projects_root_and_looks_nothing_up(capfd: pytest.CaptureFixture[str]) -> None:
    run_command(["-c", "import os; print(os.getcwd(), os.environ['HF_HUB_OFFLINE'])"])
    assert capfd.readouterr().out.splitlines()[-1] == f"{ROOT} 1"


def test_threads_of_a_command_sleep_while_they_wait_unless_the_user_wants_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Threads that spin make a step many times slower where other work has every core."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert environment()["OMP_WAIT_POLICY"] == "PASSIVE"
    assert environment()["KMP_BLOCKTIME"] == "0"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert environment()["OMP_WAIT_POLICY"] == "ACTIVE"


def test_commands_run_at_the_same_time_and_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(commands, "usable_cores", lambda: 5)
    meet = (
        "import os, pathlib, sys, time\nown, other = map(pathlib.Path, sys.argv[1:])\nown.touch()\n"
        "end = time.monotonic() + 60\nwhile not other.exists() and time.monotonic() < end: time.sleep(0.01)\n"
        "print('met' if other.exists() else 'alone', os.environ['OMP_NUM_THREADS'])"
    )
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    run_together({"first": ["-c", meet, one, two], "second": ["-c", meet, two, one]}, tmp_path / "logs")
    assert capfd.readouterr().out.splitlines()[-1] == "met 2"
    assert (tmp_path / "logs/second.log").read_text() == "met 2\n"


@pytest.mark.parametrize("failing", ["first", "second"])
def test_a_command_that_fails_stops_the_others_and_shows_what_it_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], failing: str
) -> None:
    fails = ["-c", "print('what is wrong', flush=True); raise SystemExit(3)"]
    ends = ["-c", "import time; time.sleep(300)"]
    both = {"first": fails, "second": ends} if failing == "first" else {"first": ends, "second": fails}
    with pytest.raises(SystemExit, match=f"command of {failing} ended with status 3"):
        run_together(both, tmp_path)
    assert "what is wrong" in capfd.readouterr().out


def test_usable_cores_are_those_that_the_process_is_bound_to() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
