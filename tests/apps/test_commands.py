import pytest

from apps.commands import ROOT, run_command


def test_failing_command_stops_with_its_status(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="status 3"):
        run_command(["-c", "raise SystemExit(3)"])
    assert "$ python -c raise SystemExit(3)" in capfd.readouterr().out


def test_command_runs_in_the_projects_root_and_looks_nothing_up(capfd: pytest.CaptureFixture[str]) -> None:
    run_command(["-c", "import os; print(os.getcwd(), os.environ['HF_HUB_OFFLINE'])"])
    assert capfd.readouterr().out.splitlines()[-1] == f"{ROOT} 1"
