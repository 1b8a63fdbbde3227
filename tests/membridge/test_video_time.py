import pytest

from membridge.video_time import to_clock, to_milliseconds


@pytest.mark.parametrize(
    ("time", "milliseconds"),
    [
        ("0", 0),
        ("90", 90_000),
        (1.5, 1500),
        ("1:30", 90_000),
        ("01:05.25", 65_250),
        ("2:00:01", 7_201_000),
        (" 7 ", 7000),
    ],
)
def test_times_are_read_as_people_write_them(time: str | float, milliseconds: int) -> None:
    assert to_milliseconds(time) == milliseconds


@pytest.mark.parametrize("time", ["", "-1", "1:75", "nan", "inf", "1e400", "soon", "1:2:3:4", True])
def test_what_is_no_time_is_refused(time: str | float) -> None:
    with pytest.raises(ValueError, match="is no time in a video; write seconds"):
        to_milliseconds(time)


@pytest.mark.parametrize(
    ("milliseconds", "clock"),
    [(0, "0:00.0"), (7_540, "0:07.5"), (59_960, "1:00.0"), (3_599_990, "1:00:00.0"), (90_061_000, "25:01:01.0")],
)
def test_a_clock_shows_tenths_and_reads_back(milliseconds: int, clock: str) -> None:
    assert to_clock(milliseconds) == clock
    assert abs(to_milliseconds(clock) - milliseconds) <= 50
