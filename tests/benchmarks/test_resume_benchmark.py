import json
from pathlib import Path

import pytest

from benchmarks.resume.__main__ import is_exact, main
from benchmarks.resume.history import History, Step, compare, read_attempt, surviving
from tests.process_group import one_group_at_a_time


def history(steps: dict[int, str], loss: float = 1.0) -> dict[int, Step]:
    """Make the steps of a run: number of the step -> its samples, a letter for each."""
    return {number: Step((loss / number,), tuple(sorted(samples))) for number, samples in steps.items()}


STRAIGHT = history({1: "ab", 2: "cd", 3: "ea", 4: "bc"})


def test_steps_that_no_checkpoint_held_are_dropped_and_a_start_without_a_step_changes_nothing() -> None:
    attempts: list[History] = [
        history({1: "ab", 2: "cd", 3: "xx"}, loss=5.0),
        {},
        history({2: "cd", 3: "ea"}),
        history({4: "bc"}),
    ]
    joined = surviving(attempts)
    assert {number: step.conversations for number, step in joined.items()} == {
        number: step.conversations for number, step in STRAIGHT.items()
    }
    assert [joined[number].loss for number in joined] == [5.0, 1 / 2, 1 / 3, 1 / 4]


def test_equal_runs_are_exact() -> None:
    result = compare(STRAIGHT, STRAIGHT)
    assert result == (4, 0, 0, None, None, 0.0)
    assert is_exact(result, 4, 0.0)
    assert not is_exact(result, 5, 0.0)


@pytest.mark.parametrize(
    ("changed", "lost", "doubled", "first"),
    [
        ({3: "ae", 4: "cd"}, 1, 1, 4),
        ({3: "ee"}, 1, 1, 3),
        ({4: "b"}, 1, 0, 4),
        ({4: "bca"}, 0, 1, 4),
        ({2: "ea", 3: "cd"}, 0, 0, 2),
    ],
)
def test_lost_doubled_and_displaced_samples_are_found(
    changed: dict[int, str], lost: int, doubled: int, first: int
) -> None:
    result = compare(STRAIGHT | history(changed), STRAIGHT)
    assert (result.lost, result.doubled, result.first_other_samples) == (lost, doubled, first)
    assert not is_exact(result, 4, 0.0)


def test_missing_step_loses_its_samples() -> None:
    result = compare({number: step for number, step in STRAIGHT.items() if number != 3}, STRAIGHT)
    assert (result.lost, result.doubled, result.first_other_samples) == (2, 0, 3)


def test_a_loss_that_differs_in_its_last_bit_is_found() -> None:
    other = STRAIGHT | {3: Step((1 / 3 + 2**-54,), STRAIGHT[3].conversations)}
    result = compare(other, STRAIGHT)
    assert result.first_other_loss == 3
    assert 0.0 < result.largest_difference < 1e-15
    assert not is_exact(result, 4, 0.0)
    assert is_exact(result, 4, 1e-4)


def test_attempt_is_what_all_ranks_finished(tmp_path: Path) -> None:
    def line(step: int, name: str) -> str:
        return json.dumps({"step": step, "loss": (0.1 * step).hex(), "conversations": [name]}) + "\n"

    (tmp_path / "rank-0.jsonl").write_text(line(1, "b") + line(2, "c") + line(3, "f"))
    (tmp_path / "rank-1.jsonl").write_text(line(1, "a") + line(2, "d") + line(3, "e")[:-9])  # cut short by a kill
    assert read_attempt(tmp_path) == {1: Step((0.1, 0.1), ("a", "b")), 2: Step((0.2, 0.2), ("c", "d"))}
    assert read_attempt(tmp_path / "killed-before-its-first-step") == {}


@one_group_at_a_time
@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_killed_run_and_run_with_changing_processes_go_on_exactly(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--kills", "2", "--out", str(tmp_path / "kept")]) == 0
    printed = capfd.readouterr().out
    assert printed.endswith("lost=0 doubled=0 first step at which losses differ (1 process): none\n")
    assert "| 2 -> 1 -> 2 processes | 2 |" in printed
    assert len(list((tmp_path / "kept" / "killed").glob("attempt-*"))) == 3
