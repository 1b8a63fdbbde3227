"""The grid of the haystack test: its videos, questions and official scores."""

from typing import Any, get_args

import pytest

from datamodules.benchmarks.benchmark import ScoredItem
from datamodules.benchmarks.item import BenchmarkItem
from datamodules.haystack.haystack_benchmark import HaystackBenchmark, HaystackGrid, HaystackNeedles, planned_video
from datamodules.haystack.needle_kinds import NeedleKind
from datamodules.haystack.video_plan import NUMBERS, HaystackTask

GRID = HaystackGrid((8, 30.5), (0.0, 0.5, 1.0), videos_per_cell=3, controls=2)
WITH_DISTRACTORS = HaystackNeedles(("caption", "picture", "clip"), distractors=2)
TASKS: tuple[HaystackTask, ...] = get_args(HaystackTask)


def made(**changes: Any) -> HaystackBenchmark:
    return HaystackBenchmark(**({"grid": GRID, "needles": WITH_DISTRACTORS, "tasks": TASKS} | changes))


def items_of(**changes: Any) -> list[BenchmarkItem]:
    return made(**changes).read().items


def test_the_grid_has_every_length_depth_task_and_kind_and_controls_without_a_needle() -> None:
    items = items_of()
    cells = [planned_video(item).cell for item in items]
    assert len({item.id for item in items}) == len(items)
    num_cells, num_controls = 2 * 3 * 3 * 3, 2 * 2 * 3  # the task order has no control
    assert len(items) == num_cells * 3 + num_controls * 2
    assert {(cell.task, cell.kind, cell.duration_ms, cell.depth) for cell in cells if cell.depth is not None} == {
        (task, kind, duration, depth)
        for task in TASKS
        for kind in WITH_DISTRACTORS.kinds
        for duration in (8000, 30500)
        for depth in (0.0, 0.5, 1.0)
    }
    assert {cell.task for cell in cells if cell.depth is None} == {"retrieval", "count"}


def test_equal_seeds_give_equal_videos_and_other_seeds_others() -> None:
    assert items_of() == items_of()
    assert items_of(seed=1) != items_of()


def test_a_larger_grid_has_the_videos_of_the_smaller_one() -> None:
    larger = items_of(grid=HaystackGrid((4, 8, 30.5, 60), (0.0, 0.3, 0.5, 1.0), videos_per_cell=4, controls=3), **SMALL)
    smaller = items_of(**SMALL)
    assert {item.id for item in smaller} < {item.id for item in larger}
    known = {item.id: item for item in larger}
    assert all(known[item.id] == item for item in smaller)


SMALL: dict[str, Any] = {"needles": HaystackNeedles(distractors=1), "tasks": ("retrieval",)}


@pytest.mark.parametrize("task", TASKS)
def test_the_right_option_says_what_the_needles_show(task: HaystackTask) -> None:
    for item in items_of(tasks=(task,)):
        plan = planned_video(item)
        labels = [each.drawn.label for each in plan.needles if not each.drawn.is_distractor]
        distracting = [each.drawn.label for each in plan.needles if each.drawn.is_distractor]
        expected = {
            "retrieval": labels[0] if labels else "none",
            "order": ", ".join(labels),
            "count": NUMBERS[len(labels)],
        }
        assert item.answer is not None
        assert item.options[item.answer] == item.reference == expected[task]
        assert len(set(item.options)) == len(item.options) == 4
        assert len(distracting) == 2
        assert set(labels).isdisjoint(distracting)
        assert (not labels) == (plan.cell.depth is None)
        if task == "retrieval":
            assert set(distracting) < set(item.options)
            assert "none" in item.options


def test_one_of_the_needles_is_at_the_depth_of_the_cell() -> None:
    for item in items_of():
        plan = planned_video(item)
        if plan.cell.depth is not None:
            starts = [each.start_ms for each in plan.needles if not each.drawn.is_distractor]
            assert round(plan.cell.depth * (plan.cell.duration_ms - 1000)) in starts


def test_in_all_orders_the_right_option_is_at_every_position_once() -> None:
    items = items_of(all_orders=True)
    groups: dict[str, list[BenchmarkItem]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item)
    for group in groups.values():
        assert sorted(item.answer for item in group if item.answer is not None) == list(range(len(group[0].options)))
        assert {item.options[item.answer or 0] for item in group} == {group[0].reference}


def test_a_video_counts_only_if_it_is_right_in_all_orders() -> None:
    benchmark = made(all_orders=True, tasks=("retrieval",))
    items = benchmark.read().items
    wrong = next(item for item in items if item.labels["depth"] == "50 %")
    scored = [ScoredItem(item, float(item.id != wrong.id)) for item in items]
    num_with, num_without = 2 * 3 * 3 * 3, 2 * 3 * 2
    summary = benchmark.summary(scored)
    assert summary["all videos"] == pytest.approx(1 - 1 / (num_with + num_without))
    assert summary["videos with a needle"] == pytest.approx(1 - 1 / num_with)
    assert summary["videos without a needle"] == summary["retrieval without a needle"] == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": HaystackGrid((4,))}, "5 needles and distractors of 1 s may not fit .* at least 6 s long"),
        ({"needles": HaystackNeedles(("shape",)), "grid": HaystackGrid((3,))}, "may not fit"),
    ],
)
def test_needles_that_do_not_fit_the_shortest_video_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**changes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ("shape",), "distractors": 1}, "have no distractors"),
        ({"kinds": ("shape",), "options": 10}, "can show only 8 things"),
        ({"number": 1}, "number must be from 2 to 10"),
        ({"seconds": 0}, "seconds must be positive"),
    ],
)
def test_needles_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HaystackNeedles(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"lengths_s": ()},
        {"lengths_s": (0,)},
        {"lengths_s": (1,), "depths": (1.1,)},
        {"lengths_s": (1,), "controls": -1},
    ],
)
def test_grids_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"lengths_s|depths|controls"):
        HaystackGrid(**settings)


def test_every_kind_of_needle_has_enough_different_labels() -> None:
    for kind in get_args(NeedleKind):
        assert items_of(needles=HaystackNeedles((kind,)))
