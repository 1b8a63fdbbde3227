import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.memory_study.__main__ import main
from benchmarks.memory_study.arms import Run, most_costs
from benchmarks.memory_study.rank import effective_rank
from benchmarks.memory_study.report import draw, write_report
from benchmarks.memory_study.results import collect_results, count_by_task, finished_runs, over_seeds
from benchmarks.memory_study.studies import ALL_TASKS, QUICKSTART
from benchmarks.results_page import marks, replace_section, replace_summary

ANCHOR = ALL_TASKS.anchor
BEGIN, END = marks(ALL_TASKS.section)


def counts(correct: int, questions: int) -> dict[str, int]:
    return {"correct": correct, "questions": questions}


def finish(run: Run, right: int, *, asked: int = 10, rank: float | None = 4.0, steps: int = 7) -> None:
    """Write what a finished run leaves: ``right`` of ``asked`` answers of every category at 2x, all of them at 1x."""
    categories = ("colour", "shape", "first", "count")
    report = {
        "by_length_and_category": {
            "2x": {name: counts(right, asked) for name in categories},
            "1x": {name: counts(asked, asked) for name in categories},
        }
    }
    lengths = ("1x", "2x") if rank is not None else ()
    ranks = {length: {"mean": rank, "videos": 3, "num_memory": 16} for length in lengths}
    settings = {"steps": steps, "device": "an abacus"}
    run.report.parent.mkdir(parents=True)
    for path, content in ((run.report, report), (run.rank, ranks), (run.settings, settings)):
        path.write_text(json.dumps(content))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    for seed, right in ((0, 5), (1, 7), (10, 9)):
        finish(Run(folder, "both", seed), right, rank=4.0 + seed)
    finish(Run(folder, "mean_pooling", 0), 2, rank=None)
    (folder / "arms" / "both" / "seed-2").mkdir()  # not finished
    return folder


def row(text: str, arm: str, table: int) -> list[str]:
    rows = [line for line in text.splitlines() if line.startswith(f"| {arm} |")]
    return [cell.strip() for cell in rows[table].strip("|").split("|")]


def test_mean_and_standard_error_are_over_seeds() -> None:
    assert over_seeds([0.5, 0.7, 0.9]) == pytest.approx((0.7, 0.2 / 3**0.5))
    assert over_seeds([0.4]) == (0.4, None)


@pytest.mark.parametrize("table", ["by_length_and_category", "by_length_and_kind"], ids=["now", "earlier"])
def test_categories_of_questions_are_pooled_into_tasks(table: str) -> None:
    categories = {"colour": counts(1, 4), "shape": counts(2, 4), "place": counts(0, 2)}
    categories |= {"first": counts(1, 2), "last": counts(2, 3)}
    assert count_by_task({table: {"1x": categories}}) == {"needle": {"1x": (3, 10)}, "order": {"1x": (3, 5)}}


def test_tables_hold_every_finished_run(study: Path, tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    page.write_text("# Results\n\nOther things.\n")
    section = write_report(study, page, tmp_path / "images" / "study.png")
    for table in range(3):
        assert row(section, "both", table) == ["both", "3", "1.000 ± 0.000", "0.700 ± 0.115"]
        assert row(section, "mean_pooling", table) == ["mean_pooling", "1", "1.000", "0.200"]
    assert row(section, "questions a seed", 0)[2:] == ["20", "20"]
    assert row(section, "questions a seed", 1)[2:] == ["10", "10"]
    assert row(section, "both", 3) == ["both", "16", "7.7 ± 3.2", "7.7 ± 3.2"]
    assert row(section, "mean_pooling", 3) == ["mean_pooling", "-", "-", "-"]
    assert "7 steps" in section
    assert "an abacus" in section
    assert "](images/study.png)" in section
    assert page.read_text() == f"# Results\n\nOther things.\n\n{BEGIN}\n{section}\n{END}\n"
    assert Image.open(tmp_path / "images" / "study.png").width > 1000


def test_runs_judged_on_fresh_videos_are_shown_apart(study: Path, tmp_path: Path) -> None:
    assert "of seed 3" not in write_report(study, tmp_path / "RESULTS.md", tmp_path / "study.png")
    for seed, right in ((0, 4), (10, 8)):
        finish(Run(tmp_path / "other", "both", seed), right)
        run = Run(study, "both", seed)
        run.fresh_report.parent.mkdir()
        Run(tmp_path / "other", "both", seed).report.rename(run.fresh_report)
    section = write_report(study, tmp_path / "RESULTS.md", tmp_path / "study.png")
    rows = [
        line for line in section.splitlines() if line.startswith(("| both | needle", "| both | order", "| both | c"))
    ]
    assert rows == [f"| both | {task} | 2 | 1.000 ± 0.000 | 0.600 ± 0.200 |" for task in ("needle", "order", "count")]
    assert row(section, "both", 0)[3] == "0.700 ± 0.115"
    assert "| questions a seed | order |  | 10 | 10 |" in section
    finish(Run(tmp_path / "third", "both", 1), 4, asked=12)
    third = Run(study, "both", 1).fresh_report
    third.parent.mkdir()
    Run(tmp_path / "third", "both", 1).report.rename(third)
    with pytest.raises(ValueError, match="both, seed 1 was asked other fresh questions"):
        write_report(study, tmp_path / "RESULTS.md", tmp_path / "study.png")


def test_costs_are_shown_of_arms_whose_runs_were_all_measured(study: Path, tmp_path: Path) -> None:
    assert "Visual tokens" not in write_report(study, tmp_path / "RESULTS.md", tmp_path / "study.png")

    def measure(arm: str, seed: int, *, tokens: float, kib: float) -> None:
        of_length = {"visual_tokens": tokens, "state_bytes": 1024 * kib, "videos": 3}
        Run(study, arm, seed).costs.write_text(json.dumps({"1x": of_length, "2x": {**of_length, "visual_tokens": 24}}))

    for seed, kib in ((0, 20), (1, 30)):
        measure("both", seed, tokens=12, kib=kib)
    measure("mean_pooling", 0, tokens=9, kib=14)
    section = write_report(study, tmp_path / "RESULTS.md", tmp_path / "study.png")
    assert row(section, "mean_pooling", 4) == ["mean_pooling", "measured", "9 / 14", "24 / 14"]
    assert sum(line.startswith("| both |") for line in section.splitlines()) == 4  # seed 10 was not measured
    measure("both", 10, tokens=12, kib=40)
    section = write_report(study, tmp_path / "RESULTS.md", tmp_path / "study.png")
    assert row(section, "both", 4) == ["both", "measured", "12 / 30", "24 / 30"]


def test_arms_without_a_run_show_what_they_cost_at_most(study: Path, tmp_path: Path) -> None:
    of_length = {"visual_tokens": 7, "state_bytes": 2048}
    most_costs(study).write_text(json.dumps({arm: {"1x": of_length} for arm in ("published", "mean_pooling")}))
    Run(study, "mean_pooling", 0).costs.write_text(json.dumps({"1x": {"visual_tokens": 9, "state_bytes": 1024}}))
    section = write_report(study, tmp_path / "RESULTS.md", tmp_path / "study.png")
    assert "`python -m benchmarks.memory_study prepare`, `train`, `costs` and `report` (" in section
    assert row(section, "published", 0) == ["published", "at most", "7 / 2", "-"]
    assert row(section, "mean_pooling", 4) == ["mean_pooling", "measured", "9 / 1", "-"]


def test_both_studies_have_a_section_each_of_the_same_page(study: Path, tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    first = write_report(study, page, tmp_path / "study.png")
    second = write_report(study, page, tmp_path / "quickstart.png", QUICKSTART)
    for name, section in ((ALL_TASKS.section, first), (QUICKSTART.section, second)):
        begin, end = marks(name)
        assert f"{begin}\n{section}\n{end}\n" in page.read_text()
    assert "`prepare --quickstart`" not in second
    assert "`python -m benchmarks.memory_study prepare`, `train` and `report` (" in first
    assert "memory_study prepare --quickstart`, `train --quickstart` and `report --quickstart` (" in second
    for each in (ALL_TASKS, QUICKSTART):
        words = "".join(letter for letter in each.heading.lower() if letter.isalnum() or letter in " -")
        assert each.anchor == words.replace(" ", "-")


def test_plot_has_a_panel_a_task_and_a_line_with_a_band_an_arm(study: Path) -> None:
    figure = draw(collect_results(finished_runs(study)))
    assert [panel.get_title() for panel in figure.axes] == ["needle", "order", "count"]
    for panel in figure.axes:
        lines = {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in panel.lines}
        assert lines == {"both": pytest.approx([1.0, 0.7]), "mean pooling": pytest.approx([1.0, 0.2])}
        assert len(panel.collections) == 2


def test_reporting_again_replaces_the_section_and_nothing_else(study: Path, tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    page.write_text(f"# Results\n\n{BEGIN}\nold\n{END}\n\n## After\n")
    for _ in range(2):
        section = write_report(study, page, tmp_path / "study.png")
        assert page.read_text() == f"# Results\n\n{BEGIN}\n{section}\n{END}\n\n## After\n"


def test_reporting_puts_the_main_figures_into_the_table_at_the_top(study: Path, tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    rows = [f"| {what} | old | `command` | - | - | [Link](#{anchor}) |" for what, anchor in (("a", "b"), ("c", ANCHOR))]
    page.write_text("\n".join([*rows, BEGIN, "old", END, ""]))
    for arm, right in (("published", 4), ("selective", 3)):
        finish(Run(study, arm, 0), right)
    write_report(study, page, tmp_path / "study.png")
    other, ours = page.read_text().splitlines()[:2]
    assert other == rows[0]
    measured, figure, command, device, made, link = (cell.strip() for cell in ours.strip("|").split("|"))
    assert figure == "selective 0.300 / 0.300 / 0.300, published 0.400 / 0.400 / 0.400"
    assert (measured, command, device) == ("c", "`command`", "an abacus; one thread a run")
    assert len(made.split("-")) == 3
    assert link == f"[Link](#{ANCHOR})"


def test_row_with_other_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="must have the columns what was measured, figure"):
        replace_summary(f"| [Link](#{ANCHOR}) |", ANCHOR, figure="1", device="CPU", made="2026-11-30")


@pytest.mark.parametrize("page", [f"text {BEGIN} text", f"{END}\ntext", f"{END} {BEGIN}"])
def test_page_with_broken_marks_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="memory study: begin"):
        replace_section(page, ALL_TASKS.section, "new")


@pytest.mark.parametrize("changes", [{"asked": 11}, {"steps": 8}])
def test_runs_that_cannot_be_compared_are_refused(study: Path, changes: dict[str, Any]) -> None:
    finish(Run(study, "published", 3), 5, **changes)
    with pytest.raises(ValueError, match="published, seed 3"):
        collect_results(finished_runs(study))


def test_study_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="memory_study train"):
        collect_results(finished_runs(tmp_path))


def test_report_of_another_folder_leaves_the_published_results_alone(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--out", str(study)]) == 0
    assert capsys.readouterr().out.strip() in (study / "RESULTS.md").read_text()
    assert (study / "memory_study.png").is_file()


def test_equal_tokens_have_rank_one_and_orthonormal_ones_their_number() -> None:
    torch.manual_seed(0)
    token = torch.randn(3, 1, 24)
    orthonormal = torch.linalg.qr(torch.randn(3, 24, 8)).Q.mT
    torch.testing.assert_close(effective_rank(token.expand(3, 8, 24)), torch.ones(3).double())
    torch.testing.assert_close(effective_rank(orthonormal), torch.full((3,), 8.0).double(), atol=1e-5, rtol=0)


def test_rank_ignores_scale_order_and_rotation_of_tokens() -> None:
    torch.manual_seed(1)
    memory = torch.randn(6, 10).double()
    rotation = torch.linalg.qr(torch.randn(10, 10).double()).Q
    for same in (memory * 1e-4, memory.flip(0), memory @ rotation):
        torch.testing.assert_close(effective_rank(same), effective_rank(memory))
    assert 1 < effective_rank(memory) < 6


def test_memory_of_zeros_has_no_rank() -> None:
    with pytest.raises(ValueError, match="only zeros"):
        effective_rank(torch.zeros(2, 4, 8))
