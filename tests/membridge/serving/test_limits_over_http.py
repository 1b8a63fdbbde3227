"""What a server does with clients that are too many, too slow, too large, go away, or ask for what is not allowed."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from components.interfaces import NewTokens, Streamer
from components.model import VideoLanguageModel
from membridge.conversation import Conversation, Reply
from membridge.serving import web_application
from membridge.serving.chat_request import MediaPart
from membridge.serving.header_timeout import HeaderTimeoutProtocol
from membridge.serving.media_sources import MediaFile, MediaSources
from membridge.serving.serving_limits import ServingLimits, ServingOptions
from tests.fixtures_data import make_clip, make_image
from tests.fixtures_models import PartFolders
from tests.fixtures_serving import NAME, QUESTION, make_served_model, running_server, write_media

ASK = {"model": NAME, "messages": [{"role": "user", "content": QUESTION}]}
LIMITS = ServingLimits(
    waiting=2,
    connections=12,
    json_bytes=100_000,
    upload_bytes=300_000,
    stored_bytes=400_000,
    body_seconds=1,
    body_bytes_per_second=1e6,
    answer_seconds=3,
    sessions=2,
    session_seconds=2,
    session_frames=4,
    pushed_frames=3,
    video_seconds=1.5,
)


class Served(NamedTuple):
    """A running server with tight limits."""

    url: str
    client: httpx.Client
    model: VideoLanguageModel
    root: Path


@pytest.fixture(scope="module")
def quick_waits() -> Iterator[None]:
    """Let the server look often at what is not used, and wait shortly for headers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web_application, "CLEANING_SECONDS", 0.2)
        patch.setattr(HeaderTimeoutProtocol, "header_seconds", 1.0)
        yield


@pytest.fixture(scope="module")
def served(folders: PartFolders, tmp_path_factory: pytest.TempPathFactory, quick_waits: None) -> Iterator[Served]:
    root, uploads = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("uploads")
    write_media(root)
    model = make_served_model(folders)
    options = ServingOptions(NAME, uploads, root, only_loopback_names=True, limits=LIMITS)
    with (
        running_server(model, options) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield Served(url, client, model, root)


class SlowAnswers:
    """Conversations that write a token every few milliseconds until they are told to end."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.end = threading.Event()
        self.running = threading.Event()
        self.cancelled = 0
        patch.setattr(Conversation, "ask", self._ask_function())

    def wait_until_cancelled(self) -> None:
        end = time.monotonic() + 20
        while not self.cancelled and time.monotonic() < end:
            time.sleep(0.01)
        assert self.cancelled == 1

    def _ask_function(self) -> Any:
        def ask(conversation: Conversation, question: str, streamer: Streamer) -> Reply:
            try:
                self.running.set()
                while not self.end.wait(0.01):
                    streamer(NewTokens((1,), ("word ",)))
            except BaseException:
                self.cancelled += 1
                raise
            return Reply("done", 0, 1, 1, 0.0, 0.0)

        return ask


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowAnswers]:
    answers = SlowAnswers(monkeypatch)
    yield answers
    answers.end.set()


def wait_for(served: Served, **expected: int) -> None:
    """Wait until the server's state is this."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        state = served.client.get("/health").json()
        if all(state[name] == value for name, value in expected.items()):
            return
        time.sleep(0.02)
    raise AssertionError(f"the state is {state}, expected {expected}")


def error_of(reply: httpx.Response, status: int) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert not re.search(r"Traceback|/tmp|/proc|\.py", error["message"])
    return error


def chat(served: Served, *urls: str) -> httpx.Response:
    content = [{"type": "video_url", "video_url": {"url": url}} for url in urls]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": QUESTION}]}]
    return served.client.post("/v1/chat/completions", json={"model": NAME, "messages": messages})


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
    with connected(served) as connection:
        connection.sendall(head("/v1/chat/completions", len(body)) + body)
        assert slow.running.wait(10)
        if stream:
            assert b"word" in received(connection, b"word")
    wait_for(served, answering=0)
    assert time.monotonic() - begin < LIMITS.answer_seconds
    slow.wait_until_cancelled()


def test_a_request_that_waits_is_never_begun_when_its_client_goes_away(served: Served, slow: SlowAnswers) -> None:
    body = json.dumps(ASK).encode()
    with connected(served) as first:
        first.sendall(head("/v1/chat/completions", len(body)) + body)
        assert slow.running.wait(10)
        with connected(served) as second:
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
    with connected(served) as connection:
        connection.sendall(head("/v1/chat/completions", len(body)) + body)
        assert is_open.wait(20)
    wait_for(served, answering=0)
    assert not is_closed.is_set()
    may_go_on.set()
    assert is_closed.wait(20)


def connected(served: Served) -> socket.socket:
    host, _, port = served.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def head(path: str, length: int, content_type: str = "application/json") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {content_type}", f"Content-Length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode()


def received(connection: socket.socket, end: bytes | None = None) -> bytes:
    """What comes until these bytes, or until the server closes the connection."""
    data = b""
    while (end is None or end not in data) and (chunk := connection.recv(1 << 16)):
        data += chunk
    return data


def test_a_body_that_comes_too_slowly_is_refused_and_the_connection_closed(served: Served) -> None:
    begin = time.monotonic()
    with connected(served) as connection:
        connection.sendall(head("/v1/chat/completions", 1000) + b"{")
        reply = received(connection)
    assert reply.startswith(b"HTTP/1.1 408")
    assert b"body_timeout" in reply
    assert time.monotonic() - begin < 15


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc"])
def test_headers_that_come_too_slowly_close_the_connection(served: Served, sent: bytes) -> None:
    begin = time.monotonic()
    with connected(served) as connection:
        connection.sendall(sent)
        assert received(connection) == b""
    assert time.monotonic() - begin < 15


def test_a_connection_is_used_again_after_an_answer(served: Served) -> None:
    with connected(served) as connection:
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


@pytest.mark.parametrize(
    ("files", "data", "code"),
    [
        ({"other": ("a.mp4", b"x")}, {}, "bad_form"),
        ({"x": (None, "y")}, {"file": "text"}, "bad_form"),
        ([("file", ("a.mp4", b"x")), ("file", ("b.mp4", b"x"))], {}, "bad_form"),
        ([(f"n{number}", (None, "y")) for number in range(20)], {}, "bad_form"),
    ],
)
def test_a_form_without_one_file_is_refused(served: Served, files: Any, data: dict[str, str], code: str) -> None:
    assert error_of(served.client.post("/v1/files", files=files, data=data), 400)["code"] == code
    wait_for(served, stored_bytes=0)


@pytest.mark.parametrize(
    "content", [b"", b"--x\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\n\r\n--x--", b"\0" * 99]
)
def test_a_damaged_form_is_refused(served: Served, content: bytes) -> None:
    for kind in ("multipart/form-data; boundary=x", "multipart/form-data"):
        reply = served.client.post("/v1/files", content=content, headers={"Content-Type": kind})
        assert error_of(reply, 400)["code"] == "bad_form"


def test_uploads_stay_under_the_quota_and_are_deleted(served: Served) -> None:
    upload = {"file": ("a.mp4", bytes(150_000))}
    first = served.client.post("/v1/files", files=upload).json()
    second = served.client.post("/v1/files", files=upload).json()
    assert error_of(served.client.post("/v1/files", files=upload), 429)["code"] == "storage_full"
    for each in (first, second):
        assert served.client.delete(f"/v1/files/{each['id']}").json()["deleted"]
    wait_for(served, stored_bytes=0)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/docs", 404),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/v1/files/file-x", 404),
        ("DELETE", "/v1/sessions/../../etc", 404),
        ("POST", "/v1/sessions/none/ask", 404),
    ],
)
def test_routes_that_are_not_there_say_so_in_the_same_form(served: Served, method: str, path: str, status: int) -> None:
    error_of(served.client.request(method, path), status)


def test_other_content_types_are_refused(served: Served) -> None:
    """A page in a browser can send these to a server on the same machine without being allowed to."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        reply = served.client.post("/v1/chat/completions", content=json.dumps(ASK), headers={"Content-Type": kind})
        assert error_of(reply, 415)["code"] == "unsupported_type"
    assert error_of(served.client.post("/v1/files", content=b"x"), 415)["code"] == "unsupported_type"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""])
def test_other_names_in_the_host_header_are_refused_on_this_machine(served: Served, host: str) -> None:
    assert error_of(served.client.get("/health", headers={"Host": host}), 403)["code"] == "host_refused"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "[::1]", "[::1]:8000", "127.0.0.1:1"])
def test_names_of_this_machine_are_accepted(served: Served, host: str) -> None:
    assert served.client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        ("broken.mp4", 400, "media_unreadable"),
        ("text.mp4", 400, "media_unreadable"),
        ("empty.mp4", 400, "media_unreadable"),
        ("missing.mp4", 400, "file_not_found"),
        ("/etc/passwd", 400, "file_not_found"),
        ("http://127.0.0.1/a.mp4", 400, "url_refused"),
        ("http://169.254.169.254/latest/meta-data", 400, "url_refused"),
        ("https://[::1]/a.mp4", 400, "url_refused"),
        ("clip0.mp4", 413, "media_too_large"),  # of two seconds
    ],
)
def test_media_that_cannot_be_shown_are_named(served: Served, url: str, status: int, code: str) -> None:
    error = error_of(chat(served, "picture.png", url), status)
    assert error["code"] == code
    assert error["param"] == "messages[0].content[1]"
    assert url.rpartition("/")[2] in error["message"] or code == "url_refused"


def test_a_part_of_a_long_video_can_be_shown(served: Served) -> None:
    part = {"type": "video_url", "video_url": {"url": "clip0.mp4", "start_ms": 400, "end_ms": 1900}}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}]
    assert served.client.post("/v1/chat/completions", json={"model": NAME, "messages": messages}).status_code == 200


def test_a_sound_file_and_a_long_conversation_are_refused(served: Served) -> None:
    (served.root / "sound.wav").write_bytes(b"RIFF\x24\0\0\0WAVEfmt " + bytes(40))
    assert error_of(chat(served, "sound.wav"), 400)["code"] == "media_unreadable"
    long = {**ASK, "messages": [{"role": "user", "content": "which colour " * 300}]}
    assert error_of(served.client.post("/v1/chat/completions", json=long), 400)["code"] == "context_length_exceeded"
    roles = [{"role": role, "content": "\ufdd0"} for role in ("user", "assistant", "user")]
    reply = served.client.post("/v1/chat/completions", json={**ASK, "messages": roles})
    assert error_of(reply, 400)["code"] == "turns_refused"


@pytest.mark.parametrize("stream", [False, True])
def test_an_unexpected_error_shows_nothing_of_the_inside(
    served: Served, stream: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> Reply:
        raise RuntimeError("/tmp/secret of the inside")

    monkeypatch.setattr(Conversation, "ask", fail)
    reply = served.client.post("/v1/chat/completions", json={**ASK, "stream": stream})
    error = error_of(reply, 500)
    assert "secret" not in reply.text
    assert error["type"] == "server_error"
    assert "secret of the inside" in caplog.text
    wait_for(served, answering=0)


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
