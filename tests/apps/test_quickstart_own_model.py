"""The quickstart ends with a command that asks its own model, and that command answers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import membridge
from apps import commands
from apps.quickstart.own_model import command_of, make_own_model
from tests.documentation import ROOT
from tests.fixtures_exported import QUESTION, Trained


@pytest.mark.slow
def test_the_command_that_the_quickstart_tells_answers(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(trained.folder, folder, symlinks=True)
    (folder / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(commands, "ROOT", folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MEMBRIDGE_CACHE", str(folder / "cache"))
    (folder / ".cache/membridge").rename(folder / "cache")  # the config's path does not count
    out = Path("runs/quickstart")
    for _ in range(2):  # a second quickstart replaces the first one's model
        own = make_own_model(out, out / "memory/version_0/checkpoints/final.ckpt", out / "videos/eval-8x-000000.tar")
    assert own.answer == "red"
    assert (out / "video.mp4").read_bytes() == trained.video
    assert QUESTION in own.arguments
    command = command_of(own.arguments)
    assert command.endswith(f"-m apps.ask runs/quickstart/model runs/quickstart/video.mp4 '{QUESTION}'")
    done = subprocess.run(command, shell=True, env=os.environ, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    expected = membridge.load(out / "model").answer(out / "video.mp4", QUESTION)
    assert done.stdout.strip() == (expected or "(the model gave an empty answer)")


def test_the_command_is_that_of_the_python_that_runs() -> None:
    program, *arguments = command_of(["-m", "apps.ask", "which colour ?"]).split(" ", 3)
    assert (ROOT / program).samefile(sys.executable)  # an absolute path stays itself
    assert arguments == ["-m", "apps.ask", "'which colour ?'"]
