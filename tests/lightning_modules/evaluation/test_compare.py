import json
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.evaluation.compare import find_reports, group_by_seed, main
from lightning_modules.evaluation.predictions import Prediction
from lightning_modules.evaluation.report import build_report


def report_of(correct: int, total: int = 4, **changes: Any) -> dict[str, Any]:
    predictions = [
        Prediction("key", str(number), "made", "colour", "2x", "Which?", "red", "red", number < correct, **changes)
        for number in range(total)
    ]
    return build_report(predictions, {})


def write(folder: Path, report: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return folder


def rows_of(table: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines() if line.startswith("|")
    ]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two arms of two seeds, and one without a seed."""
    for name, correct in {"mean/seed0": 1, "mean/seed1": 3, "grid/seed0": 4, "grid/seed1": 4, "blind": 0}.items():
        write(tmp_path / "study" / name / "evaluation", report_of(correct))
    return tmp_path / "study"


def test_seeds_of_an_arm_are_one_row_with_mean_and_spread(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(study)])
    printed = capsys.readouterr().out
    header, _, *rows = rows_of(printed)
    assert header == ["run", "seeds", "questions", "exact answers", "F1"]
    shown = {row[0]: row[1:4] for row in rows}
    assert shown["mean"] == ["2", "4", "0.500 ± 0.354"]
    assert shown["grid"] == ["2", "4", "1.000 ± 0.000"]
    assert shown["blind"] == ["1", "4", "0.000 [0.000, 0.490]"]
    assert "must not be compared" not in printed


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["runs/mean_seed0", "runs/mean-seed1", "runs/grid.seed=2"], ["mean", "grid"]),
        (["a/mean/seed0/eval", "a/grid/seed0/eval"], ["mean", "grid"]),
        (["a/mean/seed0/short", "a/mean/seed1/short", "a/mean/seed0/long"], ["short", "long"]),
        (["a/reseed1", "a/seeds3"], ["reseed1", "seeds3"]),
        (["a/mean/seed0", "a/mean/seed12"], ["mean"]),
        (["a/mean", "a/mean/longer"], ["mean", "longer"]),
        (["one"], ["one"]),
    ],
)
def test_runs_are_named_by_what_differs_besides_the_seed(folders: list[str], names: list[str]) -> None:
    arms = group_by_seed({Path("/") / folder: {"folder": folder} for folder in folders})
    assert [arm.name for arm in arms] == names
    assert sum(len(arm.reports) for arm in arms) == len(folders)


def test_groups_have_a_column_each_and_missing_ones_are_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "long", report_of(2, seconds=100.0))
    write(tmp_path / "short", report_of(4, seconds=5.0))
    out = tmp_path / "tables" / "all.md"
    main([str(tmp_path / "long"), str(tmp_path / "short" / "report.json"), "--by", "seconds", "--out", str(out)])
    printed = capsys.readouterr().out
    assert out.read_text(encoding="utf-8") == printed
    header, _, long, short = rows_of(printed)
    assert header[-2:] == ["0-15 s", "1-3 min"]
    assert (long[-2], long[-1][:5]) == ("-", "0.500")
    assert (short[-2][:5], short[-1]) == ("1.000", "-")


def test_runs_over_different_questions_are_shown_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "all", report_of(2, 4))
    write(tmp_path / "few", report_of(2, 3))
    main([str(tmp_path)])
    assert "must not be compared" in capsys.readouterr().out


def test_reports_of_earlier_versions_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = {"value": 0.75, "standard_error": 0.1, "correct": 3, "questions": 4}
    write(tmp_path / "earlier", {"accuracy": entry, "by_length": {"2x": entry}, "by_kind": {"colour": entry}})
    write(tmp_path / "new", report_of(3))
    main([str(tmp_path), "--by", "category"])
    printed = capsys.readouterr().out
    _, _, earlier, new = rows_of(printed)
    assert earlier == ["earlier", "1", "4", "0.750 ± 0.100", "-", "0.750 ± 0.100"]
    assert new[:2] == ["new", "1"]
    assert "must not be compared" not in printed


def test_a_run_without_a_report_and_a_file_that_is_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no report\.json in .*nowhere or below it; evaluate\.py"):
        find_reports([tmp_path / "nowhere"])
    write(tmp_path / "other", {"accuracy": 1})
    with pytest.raises(ValueError, match=r"other/report\.json is no report of evaluate\.py on shards"):
        find_reports([tmp_path])
    benchmark = write(tmp_path / "benchmark", {"scores": {}, "evaluated": {}})
    with pytest.raises(ValueError, match=r"about a benchmark; python evaluate\.py compare reads those"):
        find_reports([benchmark])


def test_a_run_that_is_named_twice_is_shown_once(study: Path) -> None:
    assert len(find_reports([study, study / "blind" / "evaluation"])) == 5
