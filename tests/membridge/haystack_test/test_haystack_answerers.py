"""One who reads the frames has every answer, and one who sees nothing has no more than chance."""

from pathlib import Path
from typing import Any, cast, get_args

import pytest

from components.model import VideoLanguageModel
from datamodules.benchmarks.benchmark import ScoredItem
from datamodules.haystack.haystack_benchmark import HaystackBenchmark, HaystackGrid, HaystackNeedles
from datamodules.haystack.needle_kinds import NeedleKind
from membridge.evaluation.benchmark_report import build_report
from membridge.haystack_test.heat_map import heat_map, scored_items
from tests.membridge.haystack_test.pretend_answerers import RuleRun, always_none, first_option, read_pixels

NO_MODEL = cast(VideoLanguageModel, None)
GRID = HaystackGrid((8, 11), (0.0, 0.37, 1.0))


def answered(folder: Path, rule: Any, **changes: Any) -> RuleRun:
    benchmark = HaystackBenchmark(**({"grid": GRID} | changes))
    run = RuleRun(benchmark, folder, rule)
    run.answer(NO_MODEL)
    return run


def scores(run: RuleRun) -> list[ScoredItem]:
    return scored_items(run.items, run.answers(), "likelihood")


@pytest.mark.parametrize("kind", get_args(NeedleKind))
def test_one_who_reads_the_frames_answers_everything(kind: NeedleKind, tmp_path: Path) -> None:
    distractors = 0 if kind == "shape" else 1
    run = answered(
        tmp_path,
        read_pixels,
        needles=HaystackNeedles((kind,), distractors=distractors),
        tasks=("retrieval", "order", "count"),
    )
    report = build_report(run.benchmark, run.items, run.answers(), {})
    assert {name: found["overall"]["value"] for name, found in report["scores"].items()} == {
        "likelihood": 1.0,
        "generated (strict)": 1.0,
        "generated (lenient)": 1.0,
    }
    maps = heat_map(run.items, run.answers())["scorers"]["likelihood"]
    assert maps["retrieval"]["with_needle"] == {"accuracy": [[1.0] * 2] * 3, "n": [[1] * 2] * 3}
    assert maps["count"]["no_needle"] == {"accuracy": [1.0] * 2, "n": [1] * 2}
    assert maps["order"]["no_needle"] == {"accuracy": [None] * 2, "n": [0] * 2}


def test_one_who_always_names_the_first_option_is_right_in_one_order_of_the_options_only(tmp_path: Path) -> None:
    run = answered(tmp_path, first_option, all_orders=True)
    share = sum(each.score for each in scores(run)) / len(run.items)
    assert share == 0.25
    assert run.benchmark.summary(scores(run))["all videos"] == 0.0


def test_one_who_sees_nothing_is_right_by_chance(tmp_path: Path) -> None:
    grid = HaystackGrid(tuple(range(1, 21)), videos_per_cell=4, controls=20)
    run = answered(tmp_path, first_option, grid=grid)
    chance, count = 0.25, len(run.items)
    share = sum(each.score for each in scores(run)) / count
    assert abs(share - chance) < 3 * (chance * (1 - chance) / count) ** 0.5


def test_one_who_never_sees_a_needle_is_right_where_there_is_none_and_nowhere_else(tmp_path: Path) -> None:
    run = answered(tmp_path, always_none, tasks=("retrieval", "count"), needles=HaystackNeedles(distractors=1))
    summary = run.benchmark.summary(scores(run))
    assert summary["videos with a needle"] == 0.0
    assert summary["retrieval without a needle"] == summary["count without a needle"] == 1.0
