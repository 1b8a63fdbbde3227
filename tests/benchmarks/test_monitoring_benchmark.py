import pytest
import torch

from benchmarks.monitoring import Settings, main, measure, ratio_to_neighbours


def test_ratio_is_to_the_neighbours_so_a_machine_that_slows_down_changes_nothing() -> None:
    without = [1.0, 3.0, 5.0, 7.0]
    between = [1.01 * seconds for seconds in (2.0, 4.0, 6.0)]
    assert ratio_to_neighbours(between, without) == pytest.approx((1.01, 1.01, 1.01))
    assert ratio_to_neighbours([1.01] * 3, [1.0] * 3) == pytest.approx((1.01, 1.01, 1.01))


def test_interval_spans_the_ratio_of_unsteady_times() -> None:
    noisy = ratio_to_neighbours([1.0, 1.1, 1.2, 1.3], [1.0, 1.05, 1.1, 1.2])
    assert noisy[1] < noisy[0] < noisy[2]


def test_blocks_take_turns_and_only_half_of_them_call_the_monitors() -> None:
    ticks = iter(range(10**6))
    turns = measure(Settings(4, 2, 2, 8, 1, 64), lambda: float(next(ticks)), torch.device("cpu"))
    assert {works: len(seconds) for works, seconds in turns.seconds.items()} == {True: 2, False: 2}
    assert len(turns.inside) == 2
    # The clock ticks once at each end of a block, and twice around every call of the monitors: five a step.
    assert turns.seconds[False] == [0.5, 0.5]
    assert turns.seconds[True] == [0.5 + 2 * 5, 0.5 + 2 * 5]


def test_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(
        [
            "--blocks",
            "4",
            "--interval",
            "2",
            "--videos",
            "2",
            "--most-frames",
            "8",
            "--layers",
            "1",
            "--width",
            "64",
            "--device",
            "cpu",
        ]
    )
    printed = capsys.readouterr().out
    assert "| blocks each | step without, ms |" in printed
    assert "limit 1.01" in printed
