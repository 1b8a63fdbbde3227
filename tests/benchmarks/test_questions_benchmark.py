from pathlib import Path

import pytest

from benchmarks import questions
from benchmarks.questions import main
from tests.benchmarks.printed_tables import rows_of

TINY = [
    "--frames",
    "8",
    "--visual-tokens",
    "64",
    "--questions",
    "6",
    "--layers",
    "1",
    "--width",
    "32",
    "--repeats",
    "1",
]


def table_of(text: str) -> dict[str, list[str]]:
    """Cells by the name of the way."""
    return {name: cells for name, cells in rows_of(text).items() if name in questions.WAYS}


def test_one_prompt_reads_the_video_and_its_tokens_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(questions, "SPEED_LIMIT", 0.0)
    page = tmp_path / "page.md"
    page.write_text("| x | - | y | - | - | [Questions](#questions-about-one-video) |\n", encoding="utf-8")
    assert main([*TINY, "--results", str(page)]) == 0
    rows = table_of(capsys.readouterr().out)
    assert list(rows) == list(questions.WAYS)
    assert [row[0] for row in rows.values()] == ["48", "8", "8"]
    positions = [int(row[1]) for row in rows.values()]
    assert positions[0] == positions[1] > 6 * 64
    assert positions[2] <= positions[0] - 5 * 64
    assert all(float(row[4]) < 1e-5 for row in rows.values())
    written = page.read_text(encoding="utf-8")
    assert table_of(written) == rows
    assert "same scores" in written.splitlines()[0]


@pytest.mark.parametrize(("limit", "value"), [("DIFFERENCE_LIMIT", -1.0), ("SPEED_LIMIT", 1e9)])
def test_a_missed_limit_fails_the_run(monkeypatch: pytest.MonkeyPatch, limit: str, value: float) -> None:
    monkeypatch.setattr(questions, "SPEED_LIMIT", 0.0)
    monkeypatch.setattr(questions, limit, value)
    assert main(TINY) == 1
