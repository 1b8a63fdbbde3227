from pathlib import Path

import pytest

from benchmarks import evaluation
from benchmarks.evaluation import main
from tests.benchmarks.printed_tables import rows_of

TINY = ["--videos", "2", "--frames", "4", "--visual-tokens", "8", "--questions", "2", "--options", "3"]
TINY += ["--layers", "1", "--width", "32"]


def test_a_pass_for_each_video_decodes_every_file_once_and_chooses_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(evaluation, "SPEED_LIMIT", 0.0)
    page = tmp_path / "page.md"
    page.write_text("| x | - | y | - | - | [Evaluation](#speed-of-an-evaluation) |\n", encoding="utf-8")
    assert main([*TINY, "--results", str(page)]) == 0
    rows = {name: cells for name, cells in rows_of(capsys.readouterr().out).items() if name in evaluation.WAYS}
    assert [row[0] for row in rows.values()] == ["12", "2"]
    assert [row[1] for row in rows.values()] == ["48", "8"]
    assert all(float(row[4]) < 1e-5 for row in rows.values())
    assert "same choices" in page.read_text(encoding="utf-8").splitlines()[0]


@pytest.mark.parametrize(("limit", "value"), [("DIFFERENCE_LIMIT", -1.0), ("SPEED_LIMIT", 1e9)])
def test_a_missed_limit_of_the_evaluation_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: float
) -> None:
    monkeypatch.setattr(evaluation, "SPEED_LIMIT", 0.0)
    monkeypatch.setattr(evaluation, limit, value)
    assert main(TINY) == 1
