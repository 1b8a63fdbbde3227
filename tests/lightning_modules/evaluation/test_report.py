import json
import math
from pathlib import Path

import pytest

from lightning_modules.evaluation.predictions import Prediction
from lightning_modules.evaluation.report import build_report, length_order, seconds_label, turn_label, write_report
from lightning_modules.evaluation.report_page import to_markdown
from lightning_modules.evaluation.scoring import NO_CATEGORY, Accuracy


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
        "low": pytest.approx(0.2307, abs=1e-4),
        "high": pytest.approx(0.8824, abs=1e-4),
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
    rows = rows[[row[0] for row in rows].index("length") :]
    assert rows[0] == ["length", "all categories", "colour", "shape"]
    assert [row[0] for row in rows[2:]] == ["2x", "10x", "all"]
    assert rows[2][1].startswith("0.600 [0.231, 0.882]")
    assert rows[2][1].endswith("(5)")
    assert rows[3][3] == "-"
    assert rows[4][1].startswith("0.571 [")


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


def test_accuracies_are_reported_by_source_seconds_and_turn() -> None:
    [first, second, third, *_] = make_predictions()
    made = [
        first._replace(source="films", seconds=15.0, turn=1),
        second._replace(source="films", seconds=15.1, turn=2),
        third._replace(source="clips", seconds=None, turn=14, correct=False),
    ]
    report = build_report(made, {})
    groups = ("by_source", "by_seconds", "by_turn")
    shares = {name: {label: entry["value"] for label, entry in report[name].items()} for name in groups}
    assert shares["by_source"] == {"clips": 0.0, "films": 0.5}
    assert shares["by_seconds"] == {"0-15 s": 1.0, "15-60 s": 0.0, "no video, or its length is unknown": 0.0}
    assert shares["by_turn"] == {"1": 1.0, "2": 0.0, "10 and later": 0.0}
    page = to_markdown(report)
    assert "| films | 0.500 [" in page
    assert "| 15-60 s | 0.000 [" in page
    assert "| 10 and later | 0.000 [" in page


def test_groups_are_in_the_order_of_their_size() -> None:
    seconds = [None, 4000.0, 20.0, 0.5, 3600.0, 60.0, 180.0, 600.0]
    unknown, *others = map(seconds_label, seconds)
    assert others == ["> 60 min", "15-60 s", "0-15 s", "10-60 min", "15-60 s", "1-3 min", "3-10 min"]
    [prediction, *_] = make_predictions()
    made = [prediction._replace(seconds=each, turn=number) for number, each in enumerate(seconds, 5)]
    report = build_report(made, {})
    in_order = ["0-15 s", "15-60 s", "1-3 min", "3-10 min", "10-60 min", "> 60 min"]
    assert list(report["by_seconds"]) == [*in_order, unknown]
    assert list(report["by_turn"]) == ["5", "6", "7", "8", "9", turn_label(10)]


def test_report_has_choices_word_f1_loss_and_perplexity() -> None:
    prediction = make_predictions()[0]
    chosen = prediction._replace(options=("red", "blue"), choice="red", choice_correct=True, nll=1.0, tokens=2)
    wrong = chosen._replace(options=("red", "blue", "green", "grey"), choice="blue", choice_correct=False)
    open_answer = prediction._replace(answer="red circle", prediction="circle", nll=4.0, tokens=4)
    report = build_report([chosen, wrong, open_answer], {})
    assert (report["options"]["correct"], report["options"]["questions"]) == (1, 2)
    assert report["options"]["chance"] == (1 / 2 + 1 / 4) / 2
    assert report["f1"] == {"value": pytest.approx(2 / 3), "questions": 1}
    loss = {"value": 6 / 8, "perplexity": pytest.approx(math.exp(6 / 8)), "tokens": 8, "questions": 3}
    assert report["loss"] == loss
    page = to_markdown(report)
    assert "| most likely option is right (chance 0.375) | 0.500 [" in page
    assert "| loss a token of the reference answers (perplexity 2.117) | 0.7500 | 3 |" in page


def test_loss_without_bound_can_be_written_as_json(tmp_path: Path) -> None:
    hopeless = make_predictions()[0]._replace(nll=1e9, tokens=1)
    write_report(build_report([hopeless], {}), tmp_path)
    assert "Infinity" not in (tmp_path / "report.json").read_text(encoding="utf-8")


def test_reports_of_earlier_versions_are_shown() -> None:
    report = build_report(make_predictions(), {})
    for name in ("options", "f1", "loss", "by_source", "by_seconds", "by_turn"):
        del report[name]
    for entry in (report["accuracy"], *report["by_length"].values()):
        del entry["low"], entry["high"]
    assert "| 2x | 0.600 ± " in to_markdown(report)
