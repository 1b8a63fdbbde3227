"""Runs the project's own commands, each in a process of its own and from the project's root."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run_command(command: Sequence[str]) -> None:
    """Print one of the project's commands and run it.

    Args:
        command: What stands after ``python``, such as ``["train.py", "fit", ...]``.

    Raises:
        SystemExit: The command failed; its own message stands above.
    """
    print("$ python " + " ".join(command), flush=True)
    finished = subprocess.run([sys.executable, *command], cwd=ROOT, check=False, env=environment())
    if finished.returncode:
        raise SystemExit(f"stopped: the command above ended with status {finished.returncode}")


def environment() -> dict[str, str]:
    """The environment of such a process."""
    # The real parts lie in folders; without this a missing file would be looked for on a hub, slowly.
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
