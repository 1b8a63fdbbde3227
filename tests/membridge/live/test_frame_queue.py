"""Which frames a model gets that is slower than a stream."""

from itertools import pairwise

import pytest
import torch

from membridge.live.frame_queue import FrameQueue, LiveFrame


def play(queue: FrameQueue, num_frames: int, frames_for_one: float) -> list[int]:
    """Offer a stream to a model that needs the time of so many frames for one; times of the frames it got."""
    got, ready_at = [], 0.0
    for number in range(num_frames):
        queue.offer(LiveFrame(torch.zeros(1), number))
        assert {later - earlier for earlier, later in pairwise(queue.waiting)} <= {queue.stride}
        while ready_at <= number and (taken := queue.take(1)):
            got.append(taken[0].time_ms)
            ready_at = max(ready_at, number) + frames_for_one
    while taken := queue.take(3):
        got += [each.time_ms for each in taken]
    return got


@pytest.mark.parametrize("capacity", [2, 7, 64])
def test_a_fast_model_gets_every_frame(capacity: int) -> None:
    queue = FrameQueue(capacity)
    assert play(queue, 500, 0.9) == list(range(500))
    assert queue.num_dropped == 0


@pytest.mark.parametrize("capacity", [2, 7, 64])
@pytest.mark.parametrize("frames_for_one", [1.5, 3.0, 10.0])
def test_frames_are_dropped_evenly(capacity: int, frames_for_one: float) -> None:
    queue = FrameQueue(capacity)
    got = play(queue, 4000, frames_for_one)
    gaps = [later - earlier for earlier, later in pairwise(got)]
    assert got[0] == 0
    assert queue.num_dropped == 4000 - len(got) > 0
    assert {gap & (gap - 1) for gap in gaps} == {0}  # powers of two
    late = gaps[len(gaps) // 2 :]
    assert frames_for_one / 2 <= sum(late) / len(late) <= 2 * frames_for_one
    assert max(late) <= 4 * frames_for_one


def test_never_more_frames_wait_than_the_capacity() -> None:
    queue = FrameQueue(5)
    for number in range(1000):
        queue.offer(LiveFrame(torch.zeros(1), number))
        assert len(queue) <= 5
    assert queue.num_dropped == 1000 - len(queue)


def test_a_model_that_was_slow_for_a_while_gets_every_frame_again() -> None:
    queue = FrameQueue(4)
    for number in range(100):
        queue.offer(LiveFrame(torch.zeros(1), number))
    for _ in range(10):
        queue.take(4)
    stride_after = queue.stride
    first = queue.num_offered
    got = play(queue, 100, 0.5)
    assert stride_after < 32
    assert got[-50:] == list(range(50, 100))
    assert queue.num_offered == first + 100
