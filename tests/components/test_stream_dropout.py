import subprocess
import sys

import pytest

from components.stream_dropout import StreamDropout

BATCHES = range(2000)


def test_streams_are_left_out_as_often_as_their_rates_say() -> None:
    schedule = StreamDropout({"frames": 0.3, "memory": 0.0, "thumbnail": 1.0})
    left_out = [schedule.left_out(batch) for batch in BATCHES]
    assert sum("frames" in each for each in left_out) / len(BATCHES) == pytest.approx(0.3, abs=0.04)
    assert all("thumbnail" in each and "memory" not in each for each in left_out)


def test_streams_are_drawn_independently() -> None:
    schedule = StreamDropout({"memory": 0.5, "frames": 0.5})
    both = sum(len(schedule.left_out(batch)) == 2 for batch in BATCHES) / len(BATCHES)
    assert both == pytest.approx(0.25, abs=0.04)


def test_draw_depends_on_seed_and_batch_alone() -> None:
    forward, backward = StreamDropout({"frames": 0.5}), StreamDropout({"memory": 0.5, "frames": 0.5})
    drawn = ["frames" in forward.left_out(batch) for batch in BATCHES]
    assert drawn == ["frames" in backward.left_out(batch) for batch in reversed(BATCHES)][::-1]
    assert drawn != ["frames" in StreamDropout({"frames": 0.5}, seed=1).left_out(batch) for batch in BATCHES]


def test_another_process_draws_the_same() -> None:
    program = (
        "from components.stream_dropout import StreamDropout\n"
        "schedule = StreamDropout({'frames': 0.5}, seed=3)\n"
        "print([len(schedule.left_out(batch)) for batch in range(40)])"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    schedule = StreamDropout({"frames": 0.5}, seed=3)
    assert other.strip() == str([len(schedule.left_out(batch)) for batch in range(40)])


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_rate_that_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=r"must be probabilities in 0..1, got {'frames'"):
        StreamDropout({"memory": 0.5, "frames": rate})
