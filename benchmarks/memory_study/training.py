"""Trains and evaluates arms over seeds, several runs at the same time; finished runs are kept."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TextIO

import torch
from omegaconf import OmegaConf
from tqdm import tqdm

from apps.commands import ROOT, environment
from benchmarks.memory_study.arms import ARMS, FRESH, Run
from benchmarks.memory_study.studies import ALL_TASKS, Study

_BASE = ("configs/base.yaml", "configs/quickstart_pixels.yaml", "configs/quickstart.yaml")
_LINES_OF_A_FAILURE = 15


def train_arms(runs: Sequence[Run], *, steps: int | None = None, jobs: int = 2) -> list[Run]:
    """Train and evaluate the runs that are not finished.

    Every run has one thread: two runs of one thread at the same time are faster than one after the other with two
    threads. The output of a run goes to ``log.txt`` in its folder.

    Args:
        runs: What to train, all of one study.
        steps: Optimizer steps of a run; None takes the study's config.
        jobs: Number of runs at the same time.

    Returns:
        The runs that failed.

    Raises:
        ValueError: Some runs in the folder have other settings, so results could not be compared.
    """
    settings = {run: describe_settings(run, steps) for run in runs}
    _refuse_other_settings(settings)
    todo = [run for run in runs if not run.rank.exists()]
    return _side_by_side(lambda run: _train_and_evaluate(run, settings[run], steps), todo, len(runs), jobs)


def evaluate_fresh(runs: Sequence[Run], *, jobs: int = 2) -> list[Run]:
    """Evaluate finished runs on the new held-out videos, unless they have been already.

    Args:
        runs: The runs, all of one study.
        jobs: Number of runs at the same time.

    Returns:
        The runs that failed.
    """
    todo = [run for run in runs if not run.fresh_report.exists()]
    return _side_by_side(_evaluate_fresh, todo, len(runs), jobs)


def _side_by_side(work: Callable[[Run], None], todo: Sequence[Run], total: int, jobs: int) -> list[Run]:
    failed = []
    with (
        ThreadPoolExecutor(jobs) as pool,
        tqdm(total=total, initial=total - len(todo), desc="arms x seeds", unit="run", dynamic_ncols=True) as bar,
    ):
        working = {pool.submit(work, run): run for run in todo}
        try:
            for done in as_completed(working):
                run = working[done]
                error = done.exception()
                if error is not None:
                    failed.append(run)
                    bar.write(f"{run.name} failed: {error}", file=sys.stderr)
                bar.set_postfix_str(run.name)
                bar.update()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)  # or the next runs would start
            raise
    return failed


def describe_settings(run: Run, steps: int | None) -> dict[str, Any]:
    """Everything besides the code that decides a run's result.

    Args:
        run: The run.
        steps: Optimizer steps, as in ``train_arms``.

    Returns:
        ``configs`` (by name, comments left out), ``features`` (a checksum of what they were made from) and ``steps``.
    """
    configs = {name: _read_yaml(ROOT / name) for name in (*_BASE, run.of.config, *ARMS[run.arm])}
    features = run.study / "features" / "features.json"
    if not features.is_file():
        raise FileNotFoundError(f"there is no {features}; first run `python -m benchmarks.memory_study prepare`")
    num_steps = steps or configs[run.of.config]["trainer"]["max_steps"]
    checksum = hashlib.sha256(features.read_bytes()).hexdigest()
    return {"steps": num_steps, "features": checksum, "configs": configs}


def training_command(run: Run, steps: int | None) -> list[str]:
    """The command that trains a run, without ``python``; it resumes from the last checkpoint if there is one."""
    command = ["train.py", "fit", *(part for config in training_configs(run) for part in ("-c", config))]
    command += ["--seed_everything", str(run.seed), "--data.order.seed", str(run.seed)]
    for option, value in (("save_dir", run.study / "arms"), ("name", run.arm), ("version", run.folder.name)):
        command += [f"--trainer.logger.init_args.{option}", str(value)]
    if steps is not None:
        command += ["--trainer.max_steps", str(steps)]
    if run.last_checkpoint.exists():
        command += ["--ckpt_path", str(run.last_checkpoint)]
    return command


def training_configs(run: Run) -> tuple[str, ...]:
    """The configs that a run is trained with, in order."""
    return (*_BASE, study_config(run.study, run.of), *ARMS[run.arm])


def study_config(folder: Path, study: Study = ALL_TASKS) -> str:
    """The study's config for data in a folder; a copy with other paths where that is not the default one."""
    if folder == study.folder:
        return study.config
    copy = folder / "study.yaml"
    config = (ROOT / study.config).read_text(encoding="utf-8")
    copy.write_text(config.replace(f"{study.folder}/", f"{folder}/"), encoding="utf-8")
    return str(copy)


def _train_and_evaluate(run: Run, settings: dict[str, Any], steps: int | None) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    run.settings.write_text(json.dumps({**settings, "device": _device()}, indent=2) + "\n", encoding="utf-8")
    checkpoint = ["--checkpoint", str(run.checkpoint)]
    features = run.study / "features"
    with (run.folder / "log.txt").open("a", encoding="utf-8") as log:
        if not run.checkpoint.exists():
            _run_logged(training_command(run, steps), log)
        if not run.report.exists():
            evaluation = ["evaluate.py", *checkpoint, "--data", f"{features}/eval-*.tar"]
            _run_logged([*evaluation, "--out", str(run.report.parent)], log)
        measured = [*checkpoint, "--data", f"{features}/{run.of.one_task}"]
        _run_logged(["-m", "benchmarks.memory_study.costs", *measured, "--out", str(run.costs)], log)
        _run_logged(["-m", "benchmarks.memory_study.rank", *measured, "--out", str(run.rank)], log)


def _evaluate_fresh(run: Run) -> None:
    data = str(run.study / FRESH / "features" / "eval-*.tar")
    command = ["evaluate.py", "--checkpoint", str(run.checkpoint), "--data", data]
    with (run.folder / "log.txt").open("a", encoding="utf-8") as log:
        _run_logged([*command, "--out", str(run.fresh_report.parent)], log)


def _run_logged(command: Sequence[str], log: TextIO) -> None:
    log.write("$ python " + " ".join(command) + "\n")
    log.flush()
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        check=False,
        env={**environment(), **threads},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    if finished.returncode:
        said = Path(log.name).read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES_OF_A_FAILURE:]
        raise RuntimeError(f"status {finished.returncode}; {log.name} ends with\n" + "\n".join(said))


def _refuse_other_settings(settings: dict[Run, dict[str, Any]]) -> None:
    differing = []
    for run, wanted in settings.items():
        if run.checkpoint.exists() or run.last_checkpoint.exists():
            made_with = json.loads(run.settings.read_text(encoding="utf-8"))
            other = [name for name, value in wanted.items() if made_with.get(name) != value]
            if other:
                differing.append(f"{run.folder} ({', '.join(other)})")
    if differing:
        raise ValueError(
            "these runs were made with other settings than now asked for: " + "; ".join(differing) + ". Remove or "
            "rename their folders to train them again, or choose another --out"
        )


def _read_yaml(path: Path) -> Any:
    return OmegaConf.to_container(OmegaConf.load(path))


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
