"""Runs a short program in a process of its own, for what changes the process for good."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def results_of(program: str, *arguments: str) -> Any:
    """Run a program that writes something to its variable ``results``, and give that; it passes through JSON."""
    complete = f"{textwrap.dedent(program)}\nimport json\nprint(json.dumps(results))"
    command = [sys.executable, "-c", complete, *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])
