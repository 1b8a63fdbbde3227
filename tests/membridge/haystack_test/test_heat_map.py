"""The heat map counts what was answered, cell by cell."""

import json
from pathlib import Path

import pytest
from PIL import Image

from datamodules.haystack.haystack_benchmark import HaystackBenchmark, HaystackGrid, planned_video
from membridge.haystack_test.heat_map import draw_heat_map, heat_map, write_heat_map

BENCHMARK = HaystackBenchmark(
    HaystackGrid((10, 7200, 30), (1.0, 0.25), videos_per_cell=2, controls=3), tasks=("retrieval", "order")
)
ITEMS = BENCHMARK.read().items


def test_cells_have_the_share_of_right_videos_and_their_number_by_hand() -> None:
    lines = {}
    for item in ITEMS:
        cell = planned_video(item).cell
        is_right = cell.depth == 1.0 or (cell.depth is None and cell.number == 0)
        is_right |= cell.duration_ms == 30_000 and cell.number == 1
        lines[item.id] = {"scores": {"likelihood": float(is_right), "generated (strict)": None}}
    unanswered = next(item.id for item in ITEMS if planned_video(item).cell[:4] == ("order", "caption", 10_000, 1.0))
    lines[unanswered] = {"error": "too long"}
    values = heat_map(ITEMS, lines)
    assert values["lengths_s"] == [10, 30, 7200]
    assert values["depths"] == [0.25, 1.0]
    maps = values["scorers"]["likelihood"]
    assert maps["retrieval"]["with_needle"] == {
        "accuracy": [[0.0, 0.5, 0.0], [1.0, 1.0, 1.0]],
        "n": [[2, 2, 2], [2, 2, 2]],
    }
    assert maps["retrieval"]["no_needle"] == {
        "accuracy": [pytest.approx(1 / 3), pytest.approx(2 / 3), pytest.approx(1 / 3)],
        "n": [3, 3, 3],
    }
    assert maps["order"]["with_needle"]["accuracy"] == [[0.0, 0.5, 0.0], [0.5, 1.0, 1.0]]
    assert maps["order"]["no_needle"] == {"accuracy": [None] * 3, "n": [0] * 3}
    assert values["scorers"]["generated (strict)"]["order"]["with_needle"]["accuracy"] == [[0.0] * 3] * 2
    assert values["chance"] == {"retrieval": 0.25, "order": 0.25}


def test_the_picture_has_a_map_for_each_task_with_a_row_for_videos_without_a_needle(tmp_path: Path) -> None:
    lines = {item.id: {"scores": {"likelihood": 1.0}} for item in ITEMS}
    values = heat_map(ITEMS, lines)
    figure = draw_heat_map(values)
    maps = [axis for axis in figure.axes if axis.images]
    assert len(maps) == 2
    assert [text.get_text() for text in maps[0].get_yticklabels()] == ["25 %", "100 %", "no needle"]
    assert [text.get_text() for text in maps[0].get_xticklabels()] == ["10 s", "30 s", "2 h"]
    write_heat_map(values, tmp_path)
    assert json.loads((tmp_path / "heatmap.json").read_text()) == values
    assert Image.open(tmp_path / "heatmap.png").size[0] > 300


def test_without_answers_there_is_an_empty_picture(tmp_path: Path) -> None:
    write_heat_map(heat_map(ITEMS, {}), tmp_path)
    assert (tmp_path / "heatmap.png").is_file()


def test_in_all_orders_chance_is_that_of_all_questions_of_a_video() -> None:
    benchmark = HaystackBenchmark(HaystackGrid((10,), (0.5,)), all_orders=True)
    items = benchmark.read().items
    values = heat_map(items, {item.id: {"scores": {"likelihood": 1.0}} for item in items})
    assert values["chance"]["retrieval"] == pytest.approx(0.25**4)
