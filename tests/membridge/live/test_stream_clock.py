"""Times of a stream's frames, and which of them are sampled."""

import pytest

from membridge.live.stream_clock import EvenTimes, StreamClock


def times(stream_ms: list[float | None], *, arrived: list[float] | None = None, live: bool = True) -> list[float]:
    clock = StreamClock(40.0, follows_wall_clock=live)
    arrived = arrived or [40.0 * number for number in range(len(stream_ms))]
    return [clock.time_of(time, at) for time, at in zip(stream_ms, arrived, strict=True)]


@pytest.mark.parametrize("start", [0.0, 1600.0, -80.0])
def test_a_stream_that_starts_at_any_time_starts_at_zero(start: float) -> None:
    assert times([start, start + 40, start + 120]) == [0, 40, 120]


def test_first_frames_without_a_time_come_before_the_first_one_that_has_one() -> None:
    assert times([None, None, 5000.0, 5040.0, None]) == [0, 40, 80, 120, 160]


def test_time_goes_on_after_a_sender_that_starts_again() -> None:
    assert times([9000.0, 9040.0, 0.0, 40.0, 80.0]) == [0, 40, 80, 120, 160]


def test_a_small_step_back_does_not_let_time_decrease() -> None:
    assert times([0.0, 40.0, 30.0, 80.0]) == [0, 40, 40, 80]


def test_a_gap_that_took_that_long_is_a_gap_and_one_that_did_not_is_a_jump() -> None:
    assert times([0.0, 60_000.0, 60_040.0], arrived=[0, 60_000, 60_040]) == [0, 60_000, 60_040]
    assert times([0.0, 60_000.0, 60_040.0], arrived=[0, 40, 80]) == [0, 40, 80]


def test_a_file_that_is_read_fast_keeps_its_gaps() -> None:
    assert times([0.0, 60_000.0], live=False) == [0, 60_000]


@pytest.mark.parametrize(("rate", "fps", "expected"), [(30, 2, 10), (2, 2, 10), (3, 3, 15), (1, 2, 5), (24, 5, 25)])
def test_frames_are_sampled_at_even_times(rate: int, fps: float, expected: int) -> None:
    chooser = EvenTimes(fps)
    chosen = [time for number in range(5 * rate) if chooser.is_due(time := round(1000 * number / rate))]
    assert len(chosen) == expected
    assert chosen[0] == 0
    period = max(1000 / fps, 1000 / rate)
    assert all(abs(time - number * period) <= 1000 / rate + 1 for number, time in enumerate(chosen))


def test_after_a_gap_frames_are_not_sampled_more_often() -> None:
    chooser = EvenTimes(1)
    assert [time for time in (0, 100, 7300, 7400, 7900, 8000, 8100) if chooser.is_due(time)] == [0, 7300, 8000]
