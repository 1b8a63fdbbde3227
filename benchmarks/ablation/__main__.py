"""Trains the arms of a sweep side by side, measures and compares them.

python -m benchmarks.ablation -c benchmarks/ablation/quickstart.yaml

The steps, one after the other; --only NAME takes one of them:
prepare   make the task's videos and features, where they are not there
train     train and evaluate every arm with every seed; finished runs are kept, stopped ones resume
measure   count tokens, bytes, seconds and memory of every finished run, one after the other on an idle machine
report    write tables and a plot: into docs/RESULTS.md for the sweeps of the project, else into the folder of the runs

Several of these commands may run on the same sweep: each passes over runs that another process trains.

On a cluster, prepare first; then each task of an array takes every N-th run:
sbatch --array=0-7 --wrap 'python -m benchmarks.ablation -c SWEEP.yaml --only train --task $SLURM_ARRAY_TASK_ID --of 8'
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from apps.commands import ROOT
from apps.quickstart.fetch import PartsUnavailableError
from benchmarks.ablation.measures import measure_runs
from benchmarks.ablation.report import write_report
from benchmarks.ablation.runs import runs_of
from benchmarks.ablation.sweep_file import Sweep, read_sweep
from benchmarks.ablation.tasks import TASKS
from benchmarks.ablation.training import check_command_lines, train_runs
from command_errors import run_and_exit

STEPS = ("prepare", "train", "measure", "report")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sweep.

    Args:
        arguments: Command line after the program's name; that of the process by default.

    Returns:
        Exit status.
    """
    options = _parse(arguments)
    file = options.config.resolve()
    os.chdir(ROOT)
    sweep = read_sweep(file)
    if options.short:  # must not replace published numbers, nor mix with complete runs
        sweep = sweep._replace(data=_shortened(sweep.data), runs=_shortened(sweep.runs))
    arms = None if options.arms is None else tuple(options.arms)
    if unknown := sorted(set(arms or ()) - set(sweep.arms)):
        raise ValueError(f"{file} has no arm {', '.join(unknown)}; there are {', '.join(sweep.arms)}")
    runs = runs_of(sweep, arms, options.seeds)[options.task :: options.of]
    failed = False  # what did not fail is measured and reported all the same
    for step in STEPS if options.only is None else (options.only,):
        if step == "prepare" and not _prepare(sweep, options.short, options.wheels):
            return 1
        if step == "train":
            check_command_lines(runs)
            hours = sweep.hours if options.hours is None else options.hours
            failed |= bool(train_runs(runs, jobs=options.jobs or sweep.jobs, hours=hours))
        if step == "measure":
            failed |= bool(measure_runs(runs))
        if step == "report":
            page, picture = _published(sweep, options.short)
            print(
                write_report(runs_of(sweep, None, options.seeds), options.results or page, options.picture or picture)
            )
    return int(failed)


def _shortened(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}_short")


def _published(sweep: Sweep, short: bool) -> tuple[Path, Path]:
    """Where tables and plot of a sweep go: those of the project's own sweeps into the docs."""
    name = f"ablation_{sweep.file.stem}.png"
    if short or sweep.file.parent != Path(__file__).parent:
        return sweep.runs / "RESULTS.md", sweep.runs / name
    return Path("docs/RESULTS.md"), Path("docs/images") / name


def _prepare(sweep: Sweep, short: bool, wheels: Path | None) -> bool:
    if (sweep.data / "features" / "features.json").is_file():
        return True
    try:
        made = TASKS[sweep.task].prepare(sweep.data, short, wheels)
    except PartsUnavailableError as error:
        print(error, file=sys.stderr)
        return False
    for name, videos in ({} if made is None else made.num_videos).items():
        print(f"{name:28} {videos:5} videos")
    return True


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-c", "--config", type=Path, required=True, help="YAML file of the sweep")
    parser.add_argument("--only", choices=STEPS, help="take this step alone")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="take these arms alone (not for report)")
    parser.add_argument("--seeds", nargs="+", type=int, help="other seeds than the sweep's")
    parser.add_argument("--jobs", type=int, help="runs at the same time, of one thread each (default: the sweep's)")
    parser.add_argument("--hours", type=float, help="begin no run after this time (default: the sweep's)")
    parser.add_argument("--task", type=int, default=0, help="take the runs TASK, TASK + OF, ... (default: 0)")
    parser.add_argument("--of", type=int, default=1, help="number of tasks that share the runs (default: 1)")
    parser.add_argument("--short", action="store_true", help="a few videos, in folders of its own (_short)")
    parser.add_argument("--wheels", type=Path, help="folder with the wheels of the parts, without network")
    parser.add_argument("--results", type=Path, help="Markdown file to write into")
    parser.add_argument("--picture", type=Path, help="plot to write")
    options = parser.parse_args(arguments)
    if not 0 <= options.task < options.of:
        parser.error(f"--task must be from 0 to {options.of - 1} with --of {options.of}, got {options.task}")
    if options.jobs is not None and options.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {options.jobs}")
    return options


if __name__ == "__main__":
    run_and_exit(main)
