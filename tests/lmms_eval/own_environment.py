"""Starts lmms-eval in its own virtual environment, which ``tests/lmms_eval/install`` makes."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.documentation import ROOT

INSTALL = "tests/lmms_eval/install"
PROGRAM = Path(__file__).with_name("evaluate_tasks.py")


class OwnEnvironment:
    """The environment, and a working directory without Python files, which ``python -m`` would import.

    Args:
        folder: The working directory; also holds the caches.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = Path(os.environ.get("LMMS_EVAL_VENV", ROOT / ".cache/lmms-eval-venv")).absolute() / "bin"
        assert (self.programs / "lmms-eval").exists(), f"{self.programs.parent} has no lmms-eval; run {INSTALL}"
        used = self.run(["python", "-c", "import membridge; print(membridge.__file__)"]).stdout.strip()
        assert Path(used).parents[1] == ROOT, f"{self.programs.parent} has the code of {used}; run {INSTALL}"

    def run(self, command: Sequence[str], **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one of the environment's programs, without a network."""
        return subprocess.run(
            [str(self.programs / command[0]), *command[1:]],
            cwd=self.folder,
            env={**self._environment(), **variables},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def evaluate(self, runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Run lmms-eval several times, in one process.

        Args:
            runs: ``tasks`` and ``folders`` of the tasks, ``model_args``, and what differs from the defaults.

        Returns:
            The exit status of each; where it is 0, also samples (by task, in the order of documents) and results.
        """
        defaults = {"model": "membridge", "batch_size": "3", "repeats": 1}
        given, out = self.folder / "runs.json", self.folder / "finished.json"
        given.write_text(json.dumps([{**defaults, **run} for run in runs]))
        out.unlink(missing_ok=True)
        ended = self.run(["python", str(PROGRAM), str(given), str(out)])
        assert out.is_file(), ended.stdout[-3000:] + ended.stderr[-3000:]
        finished: list[dict[str, Any]] = json.loads(out.read_text())
        for run in finished:
            run["printed"] = ended.stdout + ended.stderr
            for samples in run.get("samples", {}).values():
                samples.sort(key=lambda sample: sample["doc_id"])
        return finished

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))}
        return {
            **inherited,
            "HF_HOME": str(self.folder / "hub"),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }


def saved_samples(out: Path, task: str) -> list[dict[str, Any]]:
    """What ``lmms-eval --log_samples`` wrote about a task, in the order of documents.

    lmms-eval's exit status is 0 after most failures, so a test must look for its files.
    """
    [path] = out.glob(f"*/*_samples_{task}.jsonl")
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(samples, key=lambda sample: int(sample["doc_id"]))
