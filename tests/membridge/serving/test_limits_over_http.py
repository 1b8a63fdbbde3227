"""What a server does with clients that are too many, too slow or too large."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.fixtures_data import make_clip, make_image
from tests.fixtures_serving import QUESTION
from tests.membridge.serving.limited_server import ASK, Served, SlowAnswers, error_of, wait_for
from tests.raw_http import connected, head, received


def test_more_requests_than_the_queue_holds_are_told_to_come_again(served: Served, slow: SlowAnswers) -> None:
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(served.client.post, "/v1/chat/completions", json=ASK) for _ in range(2)]
        wait_for(served, answering=2)
        refused = served.client.post("/v1/chat/completions", json=ASK)
        assert error_of(refused, 503)["code"] == "overloaded"
        assert int(refused.headers["Retry-After"]) > 0
        slow.end.set()
        assert [each.result().status_code for each in waiting] == [200, 200]
    wait_for(served, answering=0)


def test_a_body_that_comes_too_slowly_is_refused_and_the_connection_closed(served: Served) -> None:
    begin = time.monotonic()
    with connected(served.url) as connection:
        connection.sendall(head("/v1/chat/completions", 1000) + b"{")
        reply = received(connection)
    assert reply.startswith(b"HTTP/1.1 408")
    assert b"body_timeout" in reply
    assert time.monotonic() - begin < 15


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc"])
def test_headers_that_come_too_slowly_close_the_connection(served: Served, sent: bytes) -> None:
    begin = time.monotonic()
    with connected(served.url) as connection:
        connection.sendall(sent)
        assert received(connection) == b""
    assert time.monotonic() - begin < 15


def test_a_connection_is_used_again_after_an_answer(served: Served) -> None:
    with connected(served.url) as connection:
        for _ in range(3):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b'"status": "ok"' in received(connection, b"}")


@pytest.mark.parametrize("is_stated", [True, False])
def test_bodies_that_are_too_large_are_refused(served: Served, is_stated: bool) -> None:
    body = b"x" * 200_000

    def chunks() -> Iterator[bytes]:
        yield from (body[start : start + 10_000] for start in range(0, len(body), 10_000))

    content: Any = body if is_stated else chunks()
    headers = {"Content-Type": "application/json"}
    reply = served.client.post("/v1/chat/completions", content=content, headers=headers)
    assert error_of(reply, 413)["code"] == "body_too_large"
    upload = served.client.post("/v1/files", files={"file": ("a.mp4", bytes(1_500_000))})
    assert error_of(upload, 413)["code"] == "body_too_large"
    wait_for(served, stored_bytes=0)


def test_uploads_stay_under_the_quota_and_are_deleted(served: Served) -> None:
    upload = {"file": ("a.mp4", bytes(150_000))}
    first = served.client.post("/v1/files", files=upload).json()
    second = served.client.post("/v1/files", files=upload).json()
    assert error_of(served.client.post("/v1/files", files=upload), 429)["code"] == "storage_full"
    for each in (first, second):
        assert served.client.delete(f"/v1/files/{each['id']}").json()["deleted"]
    wait_for(served, stored_bytes=0)


def push(served: Served, session: str, pictures: list[bytes], times: str) -> httpx.Response:
    files = [("frames", (f"{number}.png", picture)) for number, picture in enumerate(pictures)]
    return served.client.post(f"/v1/sessions/{session}/frames", files=files, data={"times_ms": times})


def test_frames_that_are_refused_leave_a_session_as_it_was(served: Served) -> None:
    session = served.client.post("/v1/sessions").json()["id"]
    picture, clip = make_image(50), make_clip(4)
    assert (
        error_of(served.client.post(f"/v1/sessions/{session}/ask", json={"question": "?"}), 400)["code"] == "no_frames"
    )
    assert push(served, session, [picture, picture], "0,100").status_code == 200
    for pictures, times, code in (
        ([picture], "0,100", "bad_value"),
        ([picture], "", "bad_value"),
        ([picture], "-1", "bad_value"),
        ([picture], "1e3", "bad_value"),
        ([picture], "99", "bad_value"),
        ([picture, picture], "300,200", "bad_value"),
        ([picture, b"no picture"], "200,300", "media_unreadable"),
        ([picture, clip], "200,300", "media_unreadable"),
        ([picture[:60]], "200", "media_unreadable"),
        ([picture] * 3, "200,300,400", "session_full"),
        ([picture] * 4, "200,300,400,500", "bad_form"),
    ):
        assert error_of(push(served, session, pictures, times), 400)["code"] == code
    assert served.client.get(f"/v1/sessions/{session}").json()["num_frames"] == 2
    assert push(served, session, [picture], "100").json()["last_ms"] == 100
    reply = served.client.post(f"/v1/sessions/{session}/ask", json={"question": QUESTION, "messages": []})
    assert error_of(reply, 400)["param"] == "messages"
    served.client.delete(f"/v1/sessions/{session}")


def test_sessions_are_few_and_end_when_they_are_not_used(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for(served, sessions=0)
    first, _ = (served.client.post("/v1/sessions").json()["id"] for _ in range(2))
    assert error_of(served.client.post("/v1/sessions"), 429)["code"] == "too_many_sessions"
    wait_for(served, sessions=0)
    assert error_of(served.client.get(f"/v1/sessions/{first}"), 404)["code"] == "session_not_found"
