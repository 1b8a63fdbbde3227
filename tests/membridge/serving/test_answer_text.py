"""Pieces of an answer join to the answer up to the first stop text, and no piece shows any of it."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.interfaces import NewTokens
from membridge.opened_medium import OpenedMedium
from membridge.serving.answer_text import AnswerText, StopTextError
from membridge.serving.read_media_cache import ReadMediaCache, num_bytes
from membridge.serving.worker_thread import AnswerCancelledError, CancelFlag

LETTERS = st.text("ab ", max_size=12)


@settings(deadline=None, max_examples=200)
@given(LETTERS, st.lists(st.text("ab ", min_size=1, max_size=4), max_size=3), st.lists(st.integers(0, 12)))
def test_text_ends_before_the_first_stop_text_however_it_is_cut(text: str, stops: list[str], cuts: list[int]) -> None:
    seen: list[str] = []
    answer = AnswerText(tuple(stops), CancelFlag(), seen.append)
    has_stopped = False
    try:
        for start, end in pairwise(sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})):
            answer(NewTokens((1,), (text[start:end],)))
        answer(NewTokens((None,), ("",)))
    except StopTextError:
        has_stopped = True
    first = min((text.index(stop) for stop in stops if stop in text), default=len(text))
    assert has_stopped == any(stop in text for stop in stops)
    assert "".join(seen) == answer.text
    assert text.startswith(answer.text)
    assert len(answer.text) >= first  # more where a stop text that begins later was complete earlier
    assert not any(stop in answer.text for stop in stops)


def test_an_answer_that_nobody_waits_for_ends() -> None:
    flag = CancelFlag()
    answer = AnswerText((), flag, None)
    answer(NewTokens((1,), ("a",)))
    flag.set()
    with pytest.raises(AnswerCancelledError):
        answer(NewTokens((1,), ("b",)))


def medium(size: int) -> OpenedMedium:
    frames = torch.zeros(1000, dtype=torch.uint8)
    return OpenedMedium("a", frames, [0], [], [], {"state": torch.zeros(size, dtype=torch.uint8)})  # type: ignore[arg-type]


def test_read_media_are_remembered_within_a_bound_the_last_used_longest() -> None:
    cache = ReadMediaCache(250)
    for name in "ab":
        assert num_bytes(cache.put(name, medium(100))) == 100  # the frames are not kept
    assert cache.get("a") is not None
    cache.put("c", medium(100))
    assert [name for name in "abc" if cache.get(name) is not None] == ["a", "c"]
    cache.put("large", medium(251))
    assert [name for name in ("a", "c", "large") if cache.get(name) is not None] == ["a", "c"]


def test_shared_memory_counts_once() -> None:
    whole = torch.zeros(100, dtype=torch.uint8)
    assert num_bytes([whole, {"part": whole[:10]}, None]) == 100
