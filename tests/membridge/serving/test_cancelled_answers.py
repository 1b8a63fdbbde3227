"""Answers that take too long, or whose client goes away, are cancelled."""

import json
import threading
import time

import pytest

from membridge.serving.chat_request import MediaPart
from membridge.serving.media_sources import MediaFile, MediaSources
from tests.fixtures_serving import NAME, QUESTION
from tests.membridge.serving.limited_server import ASK, LIMITS, Served, SlowAnswers, error_of, wait_for
from tests.raw_http import connected, head, received


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_too_long_is_cancelled(served: Served, slow: SlowAnswers, stream: bool) -> None:
    reply = served.client.post("/v1/chat/completions", json={**ASK, "stream": stream})
    if stream:
        events = reply.text.strip().split("\n\n")
        assert json.loads(events[-1][6:])["error"]["code"] == "answer_timeout"
        assert json.loads(events[1][6:])["choices"][0]["delta"]["content"] == "word "
    else:
        assert error_of(reply, 504)["code"] == "answer_timeout"
    wait_for(served, answering=0)
    slow.wait_until_cancelled()


@pytest.mark.parametrize("stream", [False, True])
def test_the_answer_of_a_client_that_goes_away_is_cancelled(served: Served, slow: SlowAnswers, stream: bool) -> None:
    begin = time.monotonic()
    body = json.dumps({**ASK, "stream": stream}).encode()
    with connected(served.url) as connection:
        connection.sendall(head("/v1/chat/completions", len(body)) + body)
        assert slow.running.wait(10)
        if stream:
            assert b"word" in received(connection, b"word")
    wait_for(served, answering=0)
    assert time.monotonic() - begin < LIMITS.answer_seconds
    slow.wait_until_cancelled()


def test_a_request_that_waits_is_never_begun_when_its_client_goes_away(served: Served, slow: SlowAnswers) -> None:
    body = json.dumps(ASK).encode()
    with connected(served.url) as first:
        first.sendall(head("/v1/chat/completions", len(body)) + body)
        assert slow.running.wait(10)
        with connected(served.url) as second:
            second.sendall(head("/v1/chat/completions", len(body)) + body)
            wait_for(served, answering=2)
        wait_for(served, answering=1)
        slow.end.set()
        assert b"done" in received(first, b"done")
    assert slow.cancelled == 0


def test_what_was_opened_for_a_client_that_is_gone_is_closed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    is_open, may_go_on, is_closed = (threading.Event() for _ in range(3))
    open_now = MediaSources.open

    def open_late(sources: MediaSources, part: MediaPart) -> MediaFile:
        file = open_now(sources, part)
        file.resources.callback(is_closed.set)
        is_open.set()
        may_go_on.wait(20)
        return file

    monkeypatch.setattr(MediaSources, "open", open_late)
    content = [{"type": "image_url", "image_url": {"url": "picture.png"}}, {"type": "text", "text": QUESTION}]
    body = json.dumps({"model": NAME, "messages": [{"role": "user", "content": content}]}).encode()
    with connected(served.url) as connection:
        connection.sendall(head("/v1/chat/completions", len(body)) + body)
        assert is_open.wait(20)
    wait_for(served, answering=0)
    assert not is_closed.is_set()
    may_go_on.set()
    assert is_closed.wait(20)
