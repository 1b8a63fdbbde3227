import json
from pathlib import Path

import pytest

from lightning_modules.evaluation.predictions import Prediction
from lightning_modules.evaluation.report import NO_CATEGORY, build_report, length_order, to_markdown, write_report
from lightning_modules.evaluation.scoring import Accuracy


def make_predictions() -> list[Prediction]:
    """At 2x: 3 of 4 colours, 0 of 1 shape. At 10x: 1 of 2 colours."""
    counts = [("10x", "colour", 1, 2), ("2x", "colour", 3, 4), ("2x", "shape", 0, 1)]
    return [
        Prediction("key", str(number), "made", category, length, "Which?", "red", "red", number < correct)
        for length, category, correct, total in counts
        for number in range(total)
    ]


def test_report_has_accuracy_by_length_by_category_and_by_both() -> None:
    report = build_report(make_predictions(), {"checkpoint": "last.ckpt"})
    assert report["evaluated"] == {"checkpoint": "last.ckpt"}
    assert (report["accuracy"]["correct"], report["accuracy"]["questions"]) == (4, 7)
    assert list(report["by_length"]) == ["2x", "10x"]
    assert report["by_length"]["2x"] == {
        "value": 0.6,
        "standard_error": Accuracy(3, 5).standard_error,
        "correct": 3,
        "questions": 5,
    }
    assert {name: entry["value"] for name, entry in report["by_category"].items()} == {"colour": 4 / 6, "shape": 0.0}
    assert list(report["by_length_and_category"]) == ["2x", "10x"]
    assert report["by_length_and_category"]["2x"]["shape"]["questions"] == 1
    assert "shape" not in report["by_length_and_category"]["10x"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["16x", "1x", "2x"], ["1x", "2x", "16x"]),
        (["128", "16", "32"], ["16", "32", "128"]),
        (["short", "1.5 min", "0.5 min"], ["0.5 min", "1.5 min", "short"]),
    ],
)
def test_lengths_are_in_their_natural_order(labels: list[str], expected: list[str]) -> None:
    assert sorted(labels, key=length_order) == expected


def test_markdown_has_a_row_a_length_and_a_column_a_category() -> None:
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in to_markdown(build_report(make_predictions(), {"data": ["a.tar", "b.tar"]})).splitlines()
        if line.startswith("|")
    ]
    assert rows[0] == ["length", "all categories", "colour", "shape"]
    assert [row[0] for row in rows[2:]] == ["2x", "10x", "all"]
    assert rows[2][1].startswith("0.600 ± ")
    assert rows[2][1].endswith("(5)")
    assert rows[3][3] == "-"
    assert rows[4][1].startswith("0.571 ± ")


def test_questions_without_a_category_have_a_name_in_the_report() -> None:
    report = build_report([make_predictions()[0]._replace(category="")], {})
    assert list(report["by_category"]) == [NO_CATEGORY]


def test_report_is_written_as_json_markdown_and_plot(tmp_path: Path) -> None:
    report = build_report(make_predictions(), {"data": ["a.tar"]})
    write_report(report, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == report
    assert "a.tar" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (tmp_path / "accuracy_by_length.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_report_on_is_refused() -> None:
    with pytest.raises(ValueError, match="no prediction to report on"):
        build_report([], {})
