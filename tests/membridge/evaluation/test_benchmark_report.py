"""The report sums up what was answered, names what was not, and counts it as wrong."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from datamodules.benchmarks.benchmark import ScoredItem, mean_of_groups
from datamodules.benchmarks.item import BenchmarkItem
from membridge.evaluation.asked_item import AskedItem, to_line
from membridge.evaluation.benchmark_report import build_report, length_bin, write_report, write_submission
from membridge.evaluation.score_tables import to_markdown
from tests.membridge.evaluation.made_benchmark import OPTIONS, MadeBenchmark, made_items

SCORES = {"likelihood": 1.0, "generated (strict)": None}


class OfTypes(MadeBenchmark):
    """Reports the mean of the types' means."""

    def summary(self, scored: Sequence[ScoredItem]) -> dict[str, float]:
        mean, by_type = mean_of_groups(scored, "type")
        return {"mean of types": mean, **by_type}


def answers_of(items: Sequence[BenchmarkItem], right: set[str], **asked: Any) -> dict[str, dict[str, Any]]:
    return {
        item.id: to_line(
            item,
            AskedItem("B", (-1.0, -2.0, -3.0, -4.0), **asked),
            {"likelihood": float(item.id in right), "generated (strict)": None},
        )
        for item in items
    }


def report_of(items: list[BenchmarkItem], answers: dict[str, dict[str, Any]], **options: Any) -> dict[str, Any]:
    return build_report(OfTypes(items), items, answers, {"benchmark": "made"}, **options)


def test_scores_by_label_length_and_scorer() -> None:
    items = [item._replace(duration_s=10 if item.labels["type"] == "t0" else 100) for item in made_items(4)]
    answers = answers_of(items, {"q0-0", "q0-1", "q1-0"})
    scores = report_of(items, answers)["scores"]
    assert list(scores) == ["likelihood", "generated (strict)"]
    likelihood = scores["likelihood"]
    assert likelihood["overall"]["value"] == 3 / 12
    assert likelihood["overall"]["videos"] == 4
    assert {name: entry["value"] for name, entry in likelihood["by_label"]["type"].items()} == {
        "t0": 0.5,
        "t1": 0.25,
        "t2": 0,
    }
    assert {name: entry["questions"] for name, entry in likelihood["by_length"].items()} == {"0-15 s": 4, "60-180 s": 8}
    assert likelihood["official"]["mean of types"] == pytest.approx(0.25)
    assert scores["generated (strict)"]["overall"]["unparsed"] == 12
    assert scores["generated (strict)"]["overall"]["value"] == 0


def test_items_without_answer_are_named_and_count_as_wrong_or_are_left_out() -> None:
    items = made_items(2)
    answers = answers_of(items[:4], {"q0-0", "q0-1", "q1-0", "q1-1"})
    answers["q2-0"] = to_line(items[4], AskedItem(error="the file is damaged"), {})
    report = report_of(items, answers)
    assert report["scores"]["likelihood"]["overall"]["value"] == pytest.approx(4 / 6)
    assert [each["reason"] for each in report["without_answer"]] == ["the file is damaged", "it was not asked yet"]
    page = to_markdown(report)
    assert "2 items; they count as wrong." in page
    assert "| q2-0 | clip0 | the file is damaged |" in page
    left_out = report_of(items, answers, skip_missing=True)
    assert left_out["scores"]["likelihood"]["overall"]["value"] == 1
    assert len(left_out["without_answer"]) == 2


def test_a_free_question_without_answer_does_not_count_for_scorers_of_options() -> None:
    closed = made_items(2)[:4]
    free = closed[0]._replace(id="free", options=(), answer=None)
    report = report_of([*closed, free], answers_of(closed, {"q0-0"}))
    assert report["scores"]["likelihood"]["overall"]["questions"] == 4


def test_hidden_answers_have_no_score_and_go_into_the_submission(tmp_path: Path) -> None:
    items = made_items(2)
    hidden = items[0]._replace(id="hidden", answer=None, reference="")
    answers = answers_of(items, {"q0-0"}) | {
        "hidden": to_line(hidden, AskedItem("C", (-3.0, -2.0, -1.0, -4.0)), {}),
    }
    report = report_of([*items, hidden], answers)
    assert (report["items"], report["labelled"]) == (7, 6)
    assert report["scores"]["likelihood"]["overall"]["questions"] == 6
    assert write_submission(MadeBenchmark([]), [*items, hidden], answers, tmp_path / "submission.json") == 1
    assert json.loads((tmp_path / "submission.json").read_text()) == {"hidden": "C"}
    assert write_submission(MadeBenchmark([]), items, answers, tmp_path / "none.json") == 0
    assert not (tmp_path / "none.json").exists()


def test_the_files_are_written_and_read_back(tmp_path: Path) -> None:
    items = made_items(3)
    report = report_of(items, answers_of(items, {"q0-0"}, frames=8, read_seconds=0.5))
    write_report(report, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert report["chance"] == 1 / len(OPTIONS)
    assert report["means"]["frames"] == 8
    assert (tmp_path / "scores.png").stat().st_size > 5000
    assert "| all | 0.111 [" in (tmp_path / "report.md").read_text()


def test_without_any_answer_there_is_a_report_too(tmp_path: Path) -> None:
    items = made_items(1)
    report = report_of(items, {})
    write_report(report, tmp_path)
    assert report["scores"] == {}
    assert len(report["without_answer"]) == 3


@pytest.mark.parametrize(
    ("seconds", "name"),
    [
        (0.5, "0-15 s"),
        (15, "0-15 s"),
        (15.5, "15-60 s"),
        (3600, "1800-3600 s"),
        (3601, "over 3600 s"),
        (None, "unknown"),
    ],
)
def test_lengths_have_bins(seconds: float | None, name: str) -> None:
    assert length_bin(seconds) == name


def test_labels_with_numbers_are_in_the_order_of_the_numbers() -> None:
    values = ["16 s", "4 s", "30.5 s", "no needle", "100 %", "4 s x"]
    items = [
        item._replace(id=value, labels={"length": value}) for item, value in zip(made_items(6), values, strict=False)
    ]
    answers = {item.id: to_line(item, AskedItem("A", (0.0, -1.0, -1.0, -1.0)), {"likelihood": 1.0}) for item in items}
    report = build_report(MadeBenchmark(items), items, answers, {})
    order = list(report["scores"]["likelihood"]["by_label"]["length"])
    assert order == ["4 s", "4 s x", "16 s", "30.5 s", "100 %", "no needle"]
