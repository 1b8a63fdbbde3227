from collections import Counter

import pytest

from datamodules.convert.row_problems import ConversionError
from datamodules.convert.sampling import parse_sampling


def taken(strategy: str, num_rows: int, seed: str = "0/0") -> list[int]:
    sampling = parse_sampling(strategy, seed)
    chosen = sampling.choose(num_rows if sampling.needs_count else None)
    return [row for row in range(num_rows) if row in chosen]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("all", [0, 1, 2, 3, 4, 5, 6]),
        ("first:2", [0, 1]),
        ("end:2", [5, 6]),
        ("first:100", [0, 1, 2, 3, 4, 5, 6]),
        ("end:100", [0, 1, 2, 3, 4, 5, 6]),
        ("first:25%", [0, 1]),  # 1.75 rows, rounded up as LLaVA-NeXT does
        ("end:1%", [6]),
        ("random:100%", [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_strategies_take_what_llava_next_takes(strategy: str, expected: list[int]) -> None:
    assert taken(strategy, 7) == expected


def test_percentages_are_exact() -> None:
    assert len(taken("first:7%", 100)) == 7  # 0.07 * 100 is more than 7 in floating point


def test_random_rows_are_as_many_as_asked_the_same_for_a_seed_and_others_for_another() -> None:
    assert taken("random:30", 100) == taken("random:30", 100)
    assert len(taken("random:30", 100)) == len(taken("random:30%", 100)) == 30
    assert taken("random:30", 100, "0/0") != taken("random:30", 100, "0/1")


def test_random_rows_are_drawn_evenly() -> None:
    counts = Counter(row for seed in range(400) for row in taken("random:3", 10, str(seed)))
    assert all(80 <= counts[row] <= 160 for row in range(10))  # 120 expected; 9 is a standard deviation


@pytest.mark.parametrize(
    "text", ["", "some", "first", "first:", "first:0", "end:-1", "random:1.5", "first:x%", "end:200%"]
)
def test_other_strategies_are_refused(text: str) -> None:
    with pytest.raises(ConversionError, match="sampling_strategy"):
        parse_sampling(text, "0")
