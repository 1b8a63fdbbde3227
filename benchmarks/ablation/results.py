"""Collects what the runs of a sweep gave: accuracy by length with standard errors, costs, and tests against one arm."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.ablation.runs import Run
from benchmarks.ablation.sweep_file import Sweep
from lightning_modules.evaluation.report import length_order
from membridge.evaluation.comparison import ScoredRun, compare_runs, holm
from membridge.evaluation.shares import ScoredQuestion, share_of

_TASK_OF_CATEGORY = {"first": "order", "last": "order", "count": "count"}
NEEDLE = "needle"
"""The task of every other category of questions: a single needle."""


class Answer(NamedTuple):
    """One held-out question and the answer of one run."""

    id: str
    video: str
    task: str
    length: str
    correct: bool


class Figure(NamedTuple):
    """A mean with its standard error."""

    mean: float
    error: float | None  # over seeds; with one seed over questions, clustered by video; None for a single video


class Tested(NamedTuple):
    """An arm beside the reference on the same questions, mean over the seeds that both have."""

    difference: float  # accuracy of the arm less that of the reference
    interval: tuple[float, float]  # 95 %, by paired bootstrap over videos
    p_value: float | None  # of McNemar's exact test, corrected by Holm's method; None with several seeds


class ArmResult(NamedTuple):
    """What one arm gave."""

    seeds: list[int]
    accuracy: dict[str, dict[str, Figure]]  # task -> length
    fresh: dict[str, dict[str, Figure]]  # the same on new held-out videos; empty without
    all_lengths: Tested | None  # None for the reference
    longest: Tested | None  # on the longest videos alone
    by_length: dict[str, dict[str, float]]  # length -> costs, see ``benchmarks.ablation.measures``; empty if unmeasured
    peak_mib: float | None
    rank: dict[str, float]  # length -> effective rank of the memory tokens; empty without
    num_memory: int | None


class Results(NamedTuple):
    """What the tables and the plot show."""

    sweep: Sweep
    arms: dict[str, ArmResult]  # in the sweep's order, finished ones alone
    lengths: list[str]
    questions: dict[str, dict[str, int]]  # task -> length -> questions that each seed was asked
    devices: list[str]
    finished: float  # when the last run was finished, seconds since 1970


def collect_results(runs: Sequence[Run]) -> Results:
    """Read the results of finished runs.

    Args:
        runs: The runs of one sweep; at least one is finished.

    Raises:
        ValueError: No run is finished, or runs were asked other questions or had another number of steps, so that
            their figures cannot be compared.
    """
    done = [run for run in runs if run.is_evaluated]
    if not done:
        raise ValueError(
            f"no run is finished; first run `python -m benchmarks.ablation -c {runs[0].sweep.file} --only train`"
        )
    answers = {run: _answers(run.answers) for run in done}
    settings = {run: _read(run.settings) for run in done}
    asked = {run: sorted(each.id for each in of_run) for run, of_run in answers.items()}
    for run in done:
        if asked[run] != asked[done[0]] or settings[run]["steps"] != settings[done[0]]["steps"]:
            raise ValueError(
                f"{run.name} has other held-out questions or another number of training steps than {done[0].name}; "
                f"remove the folder of one of the two and train it again"
            )
    sweep = done[0].sweep
    by_arm = {name: [run for run in done if run.arm.name == name] for name in sweep.arms}
    by_arm = {name: of_arm for name, of_arm in by_arm.items() if of_arm}
    reference = {run.seed: answers[run] for run in by_arm.get(sweep.reference, [])}
    lengths = sorted({each.length for each in answers[done[0]]}, key=length_order)
    every = _tested(by_arm, answers, reference, sweep.reference, lengths)
    longest = _tested(by_arm, answers, reference, sweep.reference, lengths[-1:])
    return Results(
        sweep,
        {name: _arm(of_arm, answers, every.get(name), longest.get(name)) for name, of_arm in by_arm.items()},
        lengths,
        _questions(answers[done[0]]),
        sorted({settings[run]["device"] for run in done}),
        max((run.answers / "report.json").stat().st_mtime for run in done),
    )


def _arm(
    runs: Sequence[Run], answers: Mapping[Run, list[Answer]], every: Tested | None, longest: Tested | None
) -> ArmResult:
    measured = [_read(run.measures) for run in runs if run.measures.exists()]
    ranks = [each["rank"] for each in measured]
    fresh = [_answers(run.fresh_answers) for run in runs if run.fresh_features is not None]
    first = measured[0]["by_length"] if measured else {}
    return ArmResult(
        seeds=[run.seed for run in runs],
        accuracy=accuracy_of([answers[run] for run in runs]),
        fresh=accuracy_of(fresh) if fresh else {},
        all_lengths=every,
        longest=longest,
        by_length={
            length: {name: statistics.fmean(each["by_length"][length][name] for each in measured) for name in of_length}
            for length, of_length in first.items()
        },
        peak_mib=statistics.fmean(each["peak_mib"] for each in measured) if measured else None,
        rank={
            length: statistics.fmean(each[length]["mean"] for each in ranks) for length in (ranks[0] if ranks else ())
        },
        num_memory=next((entry["num_memory"] for each in ranks for entry in each.values()), None),
    )


def accuracy_of(seeds: Sequence[Sequence[Answer]]) -> dict[str, dict[str, Figure]]:
    """Accuracy by task and length.

    Args:
        seeds: The answers of every seed of an arm, at least one.

    Returns:
        Task -> length -> figure, lengths in their natural order.
    """
    cells = sorted({(each.task, each.length) for each in seeds[0]}, key=lambda cell: (cell[0], length_order(cell[1])))
    found: dict[str, dict[str, Figure]] = {}
    for task, length in cells:
        shares = [
            share_of(
                [ScoredQuestion(float(a.correct), a.video) for a in of_seed if (a.task, a.length) == (task, length)]
            )
            for of_seed in seeds
        ]
        values = [share.value for share in shares]
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else shares[0].standard_error
        found.setdefault(task, {})[length] = Figure(statistics.fmean(values), None if math.isnan(error) else error)
    return found


def _tested(
    by_arm: Mapping[str, Sequence[Run]],
    answers: Mapping[Run, list[Answer]],
    reference: Mapping[int, list[Answer]],
    name_of_reference: str,
    lengths: Sequence[str],
) -> dict[str, Tested]:
    """Every arm beside the reference on the questions of these lengths."""
    found = {}
    for name, runs in by_arm.items():
        shared = [run for run in runs if run.seed in reference]
        if name == name_of_reference or not shared:
            continue
        pair = (
            _scored(name, [answers[run] for run in shared], lengths),
            _scored(name_of_reference, [reference[run.seed] for run in shared], lengths),
        )
        (compared,) = compare_runs(pair)
        found[name] = Tested(compared.difference, compared.interval, compared.p_value)
    tested = [name for name, each in found.items() if each.p_value is not None]
    corrected = holm([each.p_value for each in found.values() if each.p_value is not None])
    return found | {name: found[name]._replace(p_value=p) for name, p in zip(tested, corrected, strict=True)}


def _scored(name: str, seeds: Sequence[Sequence[Answer]], lengths: Sequence[str]) -> ScoredRun:
    asked = [each for each in seeds[0] if each.length in lengths]
    by_seed = [{each.id: float(each.correct) for each in of_seed} for of_seed in seeds]
    scores = {each.id: statistics.fmean(of_seed[each.id] for of_seed in by_seed) for each in asked}
    return ScoredRun(name, {}, scores, {each.id: each.video for each in asked})


def _answers(folder: Path) -> list[Answer]:
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    found = []
    for line in map(json.loads, lines):
        task = _TASK_OF_CATEGORY.get(line["category"], NEEDLE)
        found.append(Answer(line["id"], line["key"], task, line["length"], bool(line["correct"])))
    return found


def _questions(answers: Sequence[Answer]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for each in answers:
        of_task = counts.setdefault(each.task, {})
        of_task[each.length] = of_task.get(each.length, 0) + 1
    return counts


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
