"""SceneTilling is linear in the video: twice the frames cost twice as much, not four times."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.scene_tilling import class_vectors, similarity_curves
from components.segmenters import segment_streams
from components.segmenters.scene_tilling import SceneTilling

KINDS = ("random", "monotone", "constant")
FORMS = {"top-k": SceneTilling(k=3), "threshold": SceneTilling(alpha=0.5, max_cuts=15, max_segment_frames=8)}
TIMES_AS_LONG = 16
# Linear cost grows 16 times, quadratic cost 256 times; between them is room for caches and for what else runs.
LIMIT = 64


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fastest(call: Callable[[], object], repeats: int) -> float:
    """Processor seconds of this thread."""
    seconds = []
    for _ in range(repeats):
        start = time.thread_time()
        call()
        seconds.append(time.thread_time() - start)
    return min(seconds)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_offline_form_is_linear_in_the_frames(form: str, kind: str) -> None:
    seconds = []
    for num_frames, repeats in ((1_000, 30), (1_000 * TIMES_AS_LONG, 10)):
        curves, counts = similarity_curves(kind, 1, num_frames, "cpu"), torch.tensor([num_frames])
        seconds.append(fastest(partial(FORMS[form].segment_rows, curves, counts), repeats))
    assert seconds[1] < LIMIT * seconds[0]


class CountOperators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def num_operators(segmenter: SceneTilling, kind: str, num_videos: int, num_frames: int) -> int:
    # So narrow that the cosine, which goes in blocks that fit a cache, takes one.
    cls = class_vectors(kind, num_frames, 4, "cpu").repeat(num_videos, 1)
    with CountOperators() as operators:
        segmenter.segment(cls, torch.full((num_videos,), num_frames))
    return operators.count


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_offline_form_calls_as_many_operators_however_long_and_many_the_videos_are(form: str, kind: str) -> None:
    assert num_operators(FORMS[form], kind, 1, 20_000) == num_operators(FORMS[form], kind, 1, 50) > 10
    assert num_operators(FORMS[form], kind, 7, 3_000) == num_operators(FORMS[form], kind, 2, 50)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_segment_frames", [None, 8])
def test_stream_takes_a_frame_in_amortised_constant_time(
    kind: str, max_segment_frames: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = SceneTilling(k=3, max_segment_frames=max_segment_frames)
    cls = torch.ones(1)

    def push_all(curve: list[float]) -> None:
        similarities = iter(curve)
        # The cosine takes most of a push and would hide what grows with the frames before.
        monkeypatch.setattr(segment_streams, "adjacent_similarity", lambda _pair: next(similarities))
        stream = segmenter.stream()
        for _ in range(len(curve) + 1):
            stream.push(cls)

    short, long = (similarity_curves(kind, 1, count, "cpu")[0].tolist() for count in (2_000, 2_000 * TIMES_AS_LONG))
    assert fastest(partial(push_all, long), 3) < LIMIT * fastest(partial(push_all, short), 3)
