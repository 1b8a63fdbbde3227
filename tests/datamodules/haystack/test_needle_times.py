"""Needles are inside the video at every depth and length, and do not overlap."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.haystack.needle_times import most_needles, needle_start_ms, place_needles
from datamodules.media.frame_sampling import frame_times_ms

DEPTHS = st.floats(0, 1)


@given(DEPTHS, st.integers(1, 20_000_000), st.integers(1, 60_000))
def test_a_needle_is_inside_the_video_at_every_depth(depth: float, duration_ms: int, needle_ms: int) -> None:
    shown_ms = min(needle_ms, duration_ms)
    start = needle_start_ms(depth, duration_ms, shown_ms)
    assert start >= 0
    assert start + shown_ms <= duration_ms
    assert needle_start_ms(0, duration_ms, shown_ms) == 0
    assert needle_start_ms(1, duration_ms, shown_ms) + shown_ms == duration_ms


@given(DEPTHS, st.integers(1, 14_400), st.integers(1, 4))
def test_a_model_that_reads_a_frame_a_second_or_more_sees_every_needle(depth: float, seconds: int, fps: int) -> None:
    times = frame_times_ms(1000 * seconds, seconds * fps)
    seen = []
    for where in (depth, 0.0, 1.0):
        start = needle_start_ms(where, 1000 * seconds, 1000)
        seen.append([index for index, time in enumerate(times) if start <= time < start + 1000])
    assert seen[0]
    assert seen[1][0] == 0
    assert seen[2][-1] == len(times) - 1


@given(DEPTHS, st.integers(2, 8), st.integers(2_000, 200_000), st.integers(1, 5_000), st.integers(0, 2**32))
def test_several_needles_fit_do_not_overlap_and_one_is_at_the_depth(
    depth: float, number: int, duration_ms: int, needle_ms: int, seed: int
) -> None:
    number = min(number, most_needles(duration_ms, needle_ms))
    shown_ms = min(needle_ms, duration_ms)
    first, others = place_needles(depth, number, duration_ms, shown_ms, np.random.default_rng(seed))
    assert first == needle_start_ms(depth, duration_ms, shown_ms)
    starts = sorted([first, *others])
    assert len(starts) == number
    assert starts[0] >= 0
    assert starts[-1] + shown_ms <= duration_ms
    assert all(later - earlier >= shown_ms for earlier, later in itertools.pairwise(starts))


def test_more_needles_than_fit_are_refused_with_the_number_that_fits() -> None:
    with pytest.raises(ValueError, match="6 needles of 1 s do not fit into a video of 5 s, but 4 would"):
        place_needles(0.5, 6, 5000, 1000, np.random.default_rng(0))
