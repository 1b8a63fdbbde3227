r"""Compares evaluations in one table: ``python -m lightning_modules.evaluation.compare RUNS [RUNS ...]``.

A run is a folder that ``evaluate.py --out`` wrote, or a folder above such folders. The parts of the paths in which the
runs differ name them. Runs whose names differ only in a seed (``mean/seed0``, ``mean/seed1``) are one row: the mean
over the seeds with their standard deviation. A single run has the 95 % interval of its questions instead.

    python -m lightning_modules.evaluation.compare runs/quickstart --by seconds --out comparison.md
"""

import argparse
import itertools
import json
import re
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from command_errors import run_and_exit
from components.checkpoints.atomic_folder import write_atomically
from lightning_modules.evaluation.report import SECONDS_ORDER, TURN_ORDER, length_order
from lightning_modules.evaluation.report_page import share_with_interval, table_line

REPORT = "report.json"
GROUPS = ("length", "category", "source", "seconds", "turn")

_SEED = re.compile(r"[-_.]?(?<![A-Za-z0-9])seed[-_=]?\d+(?![A-Za-z0-9])")
_NOTE = "One seed: value [95 % interval]. Several: mean ± standard deviation over seeds."
_MEASURES = {"accuracy": "exact answers", "options": "most likely option", "f1": "F1", "loss": "loss"}


class Arm(NamedTuple):
    """Runs that differ in their seed only."""

    name: str
    reports: list[dict[str, Any]]


def find_reports(runs: Iterable[Path]) -> dict[Path, dict[str, Any]]:
    """Read the reports of evaluations.

    Args:
        runs: Folders with a ``report.json``, or folders above such folders, or the files themselves.

    Returns:
        Folder -> report, in the order of ``runs``; each folder once.

    Raises:
        FileNotFoundError: A run has no report.
        ValueError: A file is no report.
    """
    found: dict[Path, dict[str, Any]] = {}
    for run in runs:
        paths = [run] if run.is_file() else [run / REPORT] if (run / REPORT).is_file() else sorted(run.rglob(REPORT))
        if not paths:
            raise FileNotFoundError(f"there is no {REPORT} in {run} or below it; evaluate.py --out writes one")
        for path in paths:
            found.setdefault(path.parent.absolute(), _read(path))
    return found


def group_by_seed(reports: Mapping[Path, dict[str, Any]]) -> list[Arm]:
    """Name the runs by what differs in their paths, and put the seeds of one name together."""
    arms: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for folder, report in reports.items():
        arms.setdefault(_without_seed(folder.parts), []).append(report)
    return [Arm(name, of_arm) for name, of_arm in zip(_differing_parts(list(arms)), arms.values(), strict=True)]


def to_table(arms: Sequence[Arm], by: str | None = None) -> str:
    """Write the comparison as Markdown.

    Args:
        arms: At least one.
        by: One of ``GROUPS``: a column for each length, category and so on, with its exact answers; None for none.
    """
    measures = [name for name in _MEASURES if any(report.get(name) for arm in arms for report in arm.reports)]
    groups = [] if by is None else _labels(arms, by)
    rows = [["run", "seeds", "questions", *(_MEASURES[name] for name in measures), *groups]]
    rows.append(["---"] * len(rows[0]))
    for arm in arms:
        counts = dict.fromkeys(str(report["accuracy"]["questions"]) for report in arm.reports)
        cells = [_cell([report.get(name) for report in arm.reports]) for name in measures]
        cells += [_cell([_group(report, by or "").get(label) for report in arm.reports]) for label in groups]
        rows.append([arm.name, str(len(arm.reports)), ", ".join(counts), *cells])
    lines = [
        *map(table_line, rows),
        "",
        "One seed: value [95 % interval]. Several: mean ± standard deviation over seeds.",
    ]
    if len({_asked(report) for arm in arms for report in arm.reports}) > 1:
        lines += ["", "The runs were asked different numbers of questions, so their values must not be compared."]
    return "\n".join(lines) + "\n"


def main(args: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        args: Command line after the program's name; that of the process by default.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lightning_modules.evaluation.compare", description="Compare evaluations in one table."
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders that evaluate.py wrote, or folders above them")
    parser.add_argument("--by", choices=GROUPS, help="a column of exact answers for each of these, too")
    parser.add_argument("--out", type=Path, help="file for the table; it is printed in any case")
    options = parser.parse_args(args)
    table = to_table(group_by_seed(find_reports(options.runs)), options.by)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.out, table)
    sys.stdout.write(table)


def _read(path: Path) -> dict[str, Any]:
    try:
        report: Any = json.loads(path.read_text(encoding="utf-8"))
        if "scores" in report:
            raise ValueError("it is about a benchmark; python evaluate.py compare reads those")
        report["accuracy"]["questions"], report["accuracy"]["value"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{path} is no report of evaluate.py on shards ({type(error).__name__}: {error}); leave it out"
        ) from error
    checked: dict[str, Any] = report
    return checked


def _without_seed(parts: Sequence[str]) -> tuple[str, ...]:
    """The parts of a path without the seed in them: ``mean_seed0`` becomes ``mean``, and ``seed0`` is left out."""
    named = (_SEED.sub("", part).strip("_.-") if _SEED.search(part) else part for part in parts)
    return tuple(part for part in named if part)


def _differing_parts(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """The paths without the parts that all begin with, and those that all end with."""
    if len(paths) == 1:
        return [paths[0][-1]]
    start = _num_shared(paths)
    end = _num_shared([path[start:][::-1] for path in paths])
    return ["/".join(path[start : len(path) - end]) or path[-1] for path in paths]


def _num_shared(paths: Sequence[tuple[str, ...]]) -> int:
    """Number of parts that all paths begin with."""
    return sum(1 for _ in itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False)))


def _group(report: Mapping[str, Any], by: str) -> dict[str, Any]:
    earlier = report.get("by_kind", {}) if by == "category" else {}  # the name in earlier versions
    found: dict[str, Any] = report.get(f"by_{by}", earlier)
    return found


def _labels(arms: Iterable[Arm], by: str) -> list[str]:
    """Labels of all runs, in the order of a report."""
    found = dict.fromkeys(label for arm in arms for report in arm.reports for label in _group(report, by))
    if by == "length":
        return sorted(found, key=length_order)
    order = {"seconds": SECONDS_ORDER, "turn": TURN_ORDER}.get(by, sorted(found))
    return [label for label in order if label in found]


def _asked(report: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """How many questions of each category were asked."""
    return tuple((name, entry["questions"]) for name, entry in sorted(_group(report, "category").items()))


def _cell(entries: Sequence[Mapping[str, Any] | None]) -> str:
    """The measure of an arm; ``-`` if one of its seeds does not have it."""
    known = [entry for entry in entries if entry is not None]
    if len(known) < len(entries):
        return "-"
    if len(known) > 1:
        values = [entry["value"] for entry in known]
        return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"
    [entry] = known
    return share_with_interval(entry) if "standard_error" in entry else f"{entry['value']:.3f}"


if __name__ == "__main__":
    run_and_exit(main)
