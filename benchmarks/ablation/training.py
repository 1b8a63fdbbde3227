"""Trains and evaluates the runs of a sweep, several at the same time; finished ones are kept."""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TextIO

import torch
from omegaconf import OmegaConf
from tqdm import tqdm

from apps.commands import ROOT, environment
from benchmarks.ablation.runs import Run
from benchmarks.ablation.tasks import TASKS
from lightning_modules.submit.command_lines import read_command_lines

_LINES_OF_A_FAILURE = 15


def train_runs(runs: Sequence[Run], *, jobs: int, hours: float | None = None) -> list[Run]:
    """Train and evaluate the runs that are not finished.

    Every run has one thread: two runs of one thread at the same time are faster than one after the other with two
    threads. The output of a run goes to ``log.txt`` in its folder. The file is locked as long as a process of the run
    lives, so several sweeps may share a folder: a run that another process trains is passed over.

    Args:
        runs: What to train, all of one sweep.
        jobs: Number of runs at the same time.
        hours: Begin no run after this time; None for no limit.

    Returns:
        The runs that failed. Those that did not begin, or that another process trains, are printed and not among them.

    Raises:
        FileNotFoundError: The features are not there.
        ValueError: Some runs in the folder have other settings, so results could not be compared.
    """
    settings = {run: settings_of(run) for run in runs}
    _refuse_other_settings(settings)
    todo = [run for run in runs if not run.is_evaluated]
    end = None if hours is None else time.monotonic() + 3600 * hours

    def work(run: Run) -> str | None:
        if end is not None and time.monotonic() >= end:
            return f"not begun within {hours:g} hours"
        return _train_and_evaluate(run, settings[run])

    return side_by_side(work, todo, len(runs), jobs)


def check_command_lines(runs: Sequence[Run]) -> None:
    """Parse the command line of every arm that is not finished, before anything is trained.

    Args:
        runs: What to train, all of one sweep.

    Raises:
        ValueError: ``train.py`` would refuse arms; the message has the errors of all.
    """
    arms = {run.arm.name: run for run in runs if not run.is_evaluated}
    lines = {name: training_command(run)[1:] for name, run in arms.items()}
    read_command_lines(lines, ROOT, sorted({config for run in arms.values() for config in configs_of(run)}))


def side_by_side(work: Callable[[Run], str | None], todo: Sequence[Run], total: int, jobs: int) -> list[Run]:
    """Work on runs, several at the same time, with a progress bar.

    Args:
        work: What to do with each. Returns why it was passed over, else None.
        todo: The runs.
        total: Their number together with those that are finished.
        jobs: How many at the same time.

    Returns:
        The runs that failed; each failure is printed.
    """
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
                elif (reason := done.result()) is not None:
                    bar.write(f"{run.name}: {reason}", file=sys.stderr)
                bar.set_postfix_str(run.name)
                bar.update()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)  # or the next runs would start
            raise
    return failed


def settings_of(run: Run) -> dict[str, Any]:
    """Everything besides the code that decides a run's result.

    Args:
        run: The run.

    Returns:
        ``configs`` (by name, comments left out), ``set``, ``features`` (a checksum of what they were made from) and
        ``steps``.
    """
    features = run.sweep.data / "features" / "features.json"
    if not features.is_file():
        raise FileNotFoundError(
            f"there is no {features}; first run `python -m benchmarks.ablation -c {run.sweep.file} --only prepare`"
        )
    configs = {name: OmegaConf.to_container(OmegaConf.load(ROOT / name)) for name in configs_of(run)}
    checksum = hashlib.sha256(features.read_bytes()).hexdigest()
    return {"steps": run.sweep.steps, "features": checksum, "configs": configs, "set": set_of(run)}


def configs_of(run: Run) -> tuple[str, ...]:
    """The configs that a run is trained with, in order."""
    return (*run.sweep.configs, *run.arm.configs)


def set_of(run: Run) -> dict[str, Any]:
    """What is set over the configs, by dotted name."""
    return {**TASKS[run.sweep.task].settings(run.sweep.data), **run.sweep.settings, **run.arm.settings}


def training_command(run: Run) -> list[str]:
    """The command that trains a run, without ``python``; it resumes from the last checkpoint if there is one."""
    command = ["train.py", "fit", *(part for config in configs_of(run) for part in ("-c", config))]
    for name, value in set_of(run).items():
        command += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    command += ["--seed_everything", str(run.seed), "--data.order.seed", str(run.seed)]
    for option, value in (("save_dir", run.sweep.runs), ("name", run.arm.name), ("version", run.folder.name)):
        command += [f"--trainer.logger.init_args.{option}", str(value)]
    if run.last_checkpoint.exists():
        command += ["--ckpt_path", str(run.last_checkpoint)]
    return command


def _train_and_evaluate(run: Run, settings: dict[str, Any]) -> str | None:
    run.folder.mkdir(parents=True, exist_ok=True)
    with run.log.open("a", encoding="utf-8") as log:
        if not _lock(log):
            return f"another process trains or evaluates it ({run.log})"
        run.settings.write_text(json.dumps({**settings, "device": _device()}, indent=2) + "\n", encoding="utf-8")
        if not run.checkpoint.exists():
            run_logged(training_command(run), log)
        held_out = {run.answers: run.sweep.data / "features"}
        if run.fresh_features is not None:
            held_out[run.fresh_answers] = run.fresh_features
        for answers, features in held_out.items():
            if not (answers / "report.json").exists():
                data = ["--data", f"{features}/eval-*.tar", "--out", str(answers)]
                run_logged(["evaluate.py", "--checkpoint", str(run.checkpoint), *data], log)
    return None


def _lock(log: TextIO) -> bool:
    """Lock a run; whether no other process has. Children inherit the lock with their output, and outlive the sweep."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks; the tasks of an array have different runs anyway
        return True
    return True


def run_logged(command: Sequence[str], log: TextIO) -> None:
    """Run a Python command with one thread.

    Args:
        command: The command, without ``python``.
        log: Open file that receives the command and its output.

    Raises:
        RuntimeError: It failed; the message has the end of the log.
    """
    log.write("\n$ python " + " ".join(command) + "\n")
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
            "these runs were made with other settings than the sweep has now: " + "; ".join(differing) + ". Remove or "
            "rename their folders to train them again, or let the sweep have another folder (runs)"
        )


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
