"""The tables and the plot of a sweep, from what finished runs leave."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.ablation.report import write_report
from benchmarks.ablation.results import Answer, accuracy_of, collect_results
from benchmarks.ablation.runs import Run, runs_of
from benchmarks.results_page import marks, replace_section, replace_summary
from lightning_modules.monitoring.effective_rank import effective_rank
from tests.benchmarks.ablation_files import small_sweep

BEGIN, END = marks("ablation, sweep")
LENGTHS = ("1x", "2x")


def finish(run: Run, right: int, *, asked: int = 10, steps: int = 2) -> None:
    """Write what a finished run leaves: ``right`` of ``asked`` answers at 2x, all of them at 1x; two a video."""
    lines = []
    for category in ("colour", "first"):
        for length in LENGTHS:
            for number in range(asked):
                correct = length == "1x" or number < right
                name = f"{category}-{length}-{number}"
                lines.append(
                    {
                        "id": name,
                        "key": f"{length}-{number // 2}",
                        "category": category,
                        "length": length,
                        "correct": correct,
                    }
                )
    run.answers.mkdir(parents=True)
    (run.answers / "predictions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (run.answers / "report.json").write_text("{}")
    run.settings.write_text(json.dumps({"steps": steps, "device": "an abacus"}))


def measure(run: Run, *, tokens: int, kib: float, rank: float | None = None) -> None:
    """Write what measuring a run leaves."""
    of_length = {"frames": 8, "visual_tokens": tokens, "state_bytes": 1024 * kib, "seconds": 0.05, "videos": 3}
    ranks = {} if rank is None else {each: {"mean": rank, "videos": 3, "num_memory": 16} for each in LENGTHS}
    by_length = {each: of_length for each in LENGTHS}
    run.measures.write_text(json.dumps({"by_length": by_length, "peak_mib": 321.0, "rank": ranks}))


def runs(folder: Path, **changes: Any) -> dict[str, Run]:
    return {run.name: run for run in runs_of(small_sweep(folder, **changes))}


def rows(text: str, arm: str) -> list[list[str]]:
    """The cells of an arm's rows in all tables."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith(f"| {arm} |")
    ]


def test_standard_errors_are_over_videos_with_one_seed_and_over_seeds_with_several() -> None:
    def answers(right: int) -> list[Answer]:
        return [Answer(str(n), str(n), "needle", "1x", n < right) for n in range(10)]

    one = accuracy_of([answers(5)])["needle"]["1x"]
    assert one.mean == 0.5
    assert one.error == pytest.approx((0.25 / 9) ** 0.5)
    several = accuracy_of([answers(5), answers(7), answers(9)])["needle"]["1x"]
    assert several == pytest.approx((0.7, 0.2 / 3**0.5))


def test_every_row_states_steps_frames_tokens_and_bytes_and_marks_what_exceeds_the_budget(tmp_path: Path) -> None:
    found = runs(tmp_path, budget={"visual_tokens": 10, "state_kib": 20})
    both, mean, grid = found.values()
    for run, right in ((both, 9), (mean, 4), (grid, 8)):
        finish(run, right)
    measure(both, tokens=10, kib=20, rank=3.5)
    measure(mean, tokens=11, kib=21)
    page, picture = tmp_path / "RESULTS.md", tmp_path / "images" / "plot.png"
    page.write_text("# Results\n\nOther things.\n")
    section = write_report(list(found.values()), page, picture)
    assert rows(section, "both")[0][1:6] == ["1", "2", "8", "10", "20"]
    assert rows(section, "mean_pooling")[0][1:6] == ["1", "2", "8", "11*", "21*"]
    assert rows(section, "grid_memory")[0][1:6] == ["1", "2", "-", "-", "-"]  # not measured
    assert rows(section, "both")[0][6:] == ["1.000 ± 0.000", "0.900 ± 0.100"]
    assert rows(section, "both")[-1] == ["both", "16", "3.5", "3.5"]
    assert ["both", "10 / 20", "10 / 20", "50", "321"] in rows(section, "both")
    assert "an abacus" in section
    assert "](images/plot.png)" in section
    assert page.read_text() == f"# Results\n\nOther things.\n\n{BEGIN}\n{section}\n{END}\n"
    assert Image.open(picture).width > 500


def test_arms_are_tested_against_the_reference_on_the_same_questions(tmp_path: Path) -> None:
    found = runs(tmp_path)
    both, mean, grid = found.values()
    for run, right in ((both, 10), (mean, 2), (grid, 10)):
        finish(run, right)
    results = collect_results(list(found.values()))
    assert results.arms["both"].longest is None
    longest, every = results.arms["mean_pooling"].longest, results.arms["mean_pooling"].all_lengths
    assert longest is not None
    assert every is not None
    assert longest.difference == pytest.approx(-0.8)
    assert every.difference == pytest.approx(-0.4)
    assert longest.p_value == pytest.approx(2 * 2 * 0.5**16)  # 16 questions, one side alone, two arms
    assert longest.interval[0] < -0.8 < longest.interval[1]
    same = results.arms["grid_memory"].longest
    assert same is not None
    assert (same.difference, same.interval, same.p_value) == (0.0, (0.0, 0.0), 1.0)


def test_arms_that_are_not_finished_and_those_left_out_are_named(tmp_path: Path) -> None:
    found = runs(tmp_path, left_out={"salient": "no saliency"})
    finish(found["mean_pooling, seed 0"], 5)
    section = write_report(list(found.values()), tmp_path / "RESULTS.md", tmp_path / "plot.png")
    assert "Not run yet: both, grid_memory." in section
    assert "Not on this task: salient (no saliency)." in section
    assert "The reference, both, is not finished" in section


def test_several_seeds_are_joined(tmp_path: Path) -> None:
    found = runs(tmp_path, seeds=[0, 1, 10])
    for seed, right in ((0, 5), (1, 7), (10, 9)):
        finish(found[f"both, seed {seed}"], right)
        finish(found[f"mean_pooling, seed {seed}"], right - 1)
    section = write_report(list(found.values()), tmp_path / "RESULTS.md", tmp_path / "plot.png")
    assert rows(section, "both")[0][1] == "3"
    assert rows(section, "both")[0][-1] == "0.700 ± 0.115"
    assert rows(section, "mean_pooling")[2][-3:][0] == "-0.100"
    assert rows(section, "mean_pooling")[2][-1] == "-"  # no test of paired answers over several seeds


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    found = runs(tmp_path)
    with pytest.raises(ValueError, match=r"no run is finished; first run .* --only train"):
        collect_results(list(found.values()))
    finish(found["both, seed 0"], 5)
    finish(found["mean_pooling, seed 0"], 5, asked=12)
    with pytest.raises(ValueError, match="mean_pooling, seed 0 has other held-out questions"):
        collect_results(list(found.values()))


def test_new_answers_on_fresh_videos_are_shown_apart(tmp_path: Path) -> None:
    (tmp_path / "fresh/features").mkdir(parents=True)
    found = runs(tmp_path)
    both = found["both, seed 0"]
    finish(both, 9)
    both.fresh_answers.mkdir()
    for name in ("predictions.jsonl", "report.json"):
        (both.fresh_answers / name).write_bytes((both.answers / name).read_bytes().replace(b"true", b"false"))
    section = write_report(list(found.values()), tmp_path / "RESULTS.md", tmp_path / "plot.png")
    assert section.count("On new held-out videos.") == 2
    assert {cells[-1] for cells in rows(section, "both")} >= {"0.900 ± 0.100", "0.000 ± 0.000"}


def test_reporting_again_replaces_the_section_and_the_row_that_links_to_it_alone(tmp_path: Path) -> None:
    found = runs(tmp_path)
    finish(found["both, seed 0"], 7)
    finish(found["mean_pooling, seed 0"], 3)
    page = tmp_path / "RESULTS.md"
    first, row = (
        f"| {what} | old | `command` | - | - | [Link](#{to}) |" for what, to in (("a", "b"), ("c", "a-small-sweep"))
    )
    page.write_text(f"{first}\n{row}\n\n{BEGIN}\nold\n{END}\n\n## After\n")
    for _ in range(2):
        section = write_report(list(found.values()), page, tmp_path / "plot.png")
        lines = page.read_text().splitlines()
        assert lines[0] == first
        assert "needle at 2x: both 0.700, mean_pooling 0.300" in lines[1]
        assert "an abacus; one thread a run" in lines[1]
        assert page.read_text().split("\n", 2)[2] == f"\n{BEGIN}\n{section}\n{END}\n\n## After\n"


def test_row_with_other_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="must have the columns what was measured, figure"):
        replace_summary("| [Link](#a) |", "a", figure="1", device="CPU", made="2026-11-30")


@pytest.mark.parametrize("page", [f"text {BEGIN} text", f"{END}\ntext", f"{END} {BEGIN}"])
def test_page_with_broken_marks_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="ablation, sweep: begin"):
        replace_section(page, "ablation, sweep", "new")


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
