"""Collects the results of the study's runs: accuracy by arm, task and length over seeds, and the memory's rank."""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from apps.quickstart.haystack_questions import TASKS
from benchmarks.memory_study.arms import ARMS, Run, most_costs
from lightning_modules.evaluation.report import length_order

# Every other category of questions is about a single needle.
_TASK_OF_CATEGORY = {"first": "order", "last": "order", "count": "count"}


class OverSeeds(NamedTuple):
    """Mean and error of a figure over seeds."""

    mean: float
    standard_error: float | None  # over seeds; None with a single one


class Costs(NamedTuple):
    """What a video costs, mean over held-out videos."""

    visual_tokens: OverSeeds
    state_bytes: OverSeeds


class Results(NamedTuple):
    """What the tables and the plot show. Arms are in the order of ``ARMS``, lengths in their natural order."""

    seeds: dict[str, list[int]]  # arm -> finished seeds
    lengths: list[str]
    questions: dict[str, dict[str, int]]  # task -> length -> questions that each seed was asked
    accuracy: dict[str, dict[str, dict[str, OverSeeds]]]  # task -> arm -> length
    rank: dict[str, dict[str, OverSeeds]]  # arm -> length; empty where an arm has no memory tokens
    num_memory: dict[str, int]  # arm -> memory tokens
    costs: dict[str, dict[str, Costs]]  # arm -> length; arms whose runs were all measured
    most_costs: dict[str, dict[str, Costs]]  # arm -> length; of all arms, not trained
    settings: list[dict[str, Any]]  # of every run
    fresh: dict[str, dict[str, dict[str, OverSeeds]]]  # arm -> task -> length, for runs evaluated on new videos too
    fresh_seeds: dict[str, int]  # arm -> such runs
    fresh_questions: dict[str, dict[str, int]]  # as ``questions``


def finished_runs(study: Path) -> list[Run]:
    """The study's runs that are trained and evaluated, arm by arm.

    Args:
        study: Folder of the study.
    """
    runs = []
    for arm in ARMS:
        seeds = (folder.name.removeprefix("seed-") for folder in (study / "arms" / arm).glob("seed-*"))
        runs += [Run(study, arm, seed) for seed in sorted(map(int, seeds))]
    return [run for run in runs if run.rank.exists()]


def collect_results(runs: Sequence[Run]) -> Results:
    """Read the results of finished runs.

    Args:
        runs: The runs; at least one.

    Raises:
        ValueError: There is no run, or the runs were not asked the same numbers of questions or not trained for
            equally many steps, so their figures cannot be compared.
    """
    if not runs:
        raise ValueError("no run is finished; first run `python -m benchmarks.memory_study train`")
    counts = {run: count_by_task(_read(run.report)) for run in runs}
    ranks = {run: _read(run.rank) for run in runs}
    settings = {run: _read(run.settings) for run in runs}
    questions = {run: _map_counts(count, lambda right, asked: asked) for run, count in counts.items()}
    for run in runs:
        if questions[run] != questions[runs[0]] or settings[run]["steps"] != settings[runs[0]]["steps"]:
            raise ValueError(
                f"{run.name} has other held-out questions or another number of training steps than {runs[0].name}; "
                "remove one of the two and run `python -m benchmarks.memory_study train` again"
            )
    by_arm = {arm: [run for run in runs if run.arm == arm] for arm in ARMS}
    by_arm = {arm: of_arm for arm, of_arm in by_arm.items() if of_arm}
    with_fresh = {arm: [run for run in of_arm if run.fresh_report.exists()] for arm, of_arm in by_arm.items()}
    fresh = {arm: of_arm for arm, of_arm in with_fresh.items() if of_arm}
    asked = {
        task: {length: of_task[length] for length in sorted(of_task, key=length_order)}
        for task, of_task in questions[runs[0]].items()
    }
    shares = {run: _map_counts(count, lambda right, asked: right / asked) for run, count in counts.items()}
    return Results(
        seeds={arm: [run.seed for run in of_arm] for arm, of_arm in by_arm.items()},
        lengths=sorted({length for of_task in asked.values() for length in of_task}, key=length_order),
        questions=asked,
        accuracy={
            task: {
                arm: {length: over_seeds([shares[run][task][length] for run in of_arm]) for length in asked[task]}
                for arm, of_arm in by_arm.items()
            }
            for task in asked
        },
        rank={
            arm: {length: over_seeds([ranks[run][length]["mean"] for run in of_arm]) for length in ranks[of_arm[0]]}
            for arm, of_arm in by_arm.items()
        },
        num_memory={run.arm: entry["num_memory"] for run in runs for entry in ranks[run].values()},
        costs={arm: _costs(of_arm) for arm, of_arm in by_arm.items() if all(run.costs.exists() for run in of_arm)},
        most_costs=_most_costs(most_costs(runs[0].study)),
        settings=[settings[run] for run in runs],
        fresh={arm: _fresh_accuracy(of_arm) for arm, of_arm in fresh.items()},
        fresh_seeds={arm: len(of_arm) for arm, of_arm in fresh.items()},
        fresh_questions=_fresh_questions([run for of_arm in fresh.values() for run in of_arm]),
    )


def _costs(runs: Sequence[Run]) -> dict[str, Costs]:
    measured = [_read(run.costs) for run in runs]
    return {
        length: Costs(*(over_seeds([of_run[length][name] for of_run in measured]) for name in Costs._fields))
        for length in measured[0]
    }


def _most_costs(file: Path) -> dict[str, dict[str, Costs]]:
    measured = _read(file) if file.exists() else {}
    return {
        arm: {
            length: Costs(*(over_seeds([of_length[name]]) for name in Costs._fields))
            for length, of_length in of_arm.items()
        }
        for arm, of_arm in measured.items()
    }


def _fresh_questions(runs: Sequence[Run]) -> dict[str, dict[str, int]]:
    counts = {run: count_by_task(_read(run.fresh_report)) for run in runs}
    questions = {run: _map_counts(count, lambda right, asked: asked) for run, count in counts.items()}
    for run in runs:
        if questions[run] != questions[runs[0]]:
            raise ValueError(
                f"{run.name} was asked other fresh questions than {runs[0].name}; remove {run.fresh_report.parent} "
                "and run `python -m benchmarks.memory_study fresh` again"
            )
    return questions[runs[0]] if runs else {}


def _fresh_accuracy(runs: Sequence[Run]) -> dict[str, dict[str, OverSeeds]]:
    counts = [count_by_task(_read(run.fresh_report)) for run in runs]
    shares = [_map_counts(count, lambda right, asked: right / asked) for count in counts]
    return {
        task: {
            length: over_seeds([share[task][length] for share in shares])
            for length in sorted(of_task, key=length_order)
        }
        for task, of_task in shares[0].items()
    }


def count_by_task(report: dict[str, Any]) -> dict[str, dict[str, tuple[int, int]]]:
    """Pool the categories of questions into tasks.

    Args:
        report: As ``evaluate.py`` writes it. Earlier versions named the same table ``by_length_and_kind``.

    Returns:
        Task -> length -> right answers and questions; tasks without a question are left out.
    """
    counts: dict[str, dict[str, tuple[int, int]]] = {task: {} for task in TASKS}
    counted = "by_length_and_category" if "by_length_and_category" in report else "by_length_and_kind"
    for length, categories in report[counted].items():
        for category, entry in categories.items():
            of_task = counts[_TASK_OF_CATEGORY.get(category, "needle")]
            right, asked = of_task.get(length, (0, 0))
            of_task[length] = (right + entry["correct"], asked + entry["questions"])
    return {task: of_task for task, of_task in counts.items() if of_task}


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """Mean and standard error of the mean.

    Args:
        values: One of each seed; at least one.
    """
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return OverSeeds(statistics.fmean(values), error)


def _map_counts(
    counts: dict[str, dict[str, tuple[int, int]]], function: Callable[[int, int], Any]
) -> dict[str, dict[str, Any]]:
    return {task: {length: function(*pair) for length, pair in of_task.items()} for task, of_task in counts.items()}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
