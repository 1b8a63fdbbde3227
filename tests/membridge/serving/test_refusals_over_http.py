"""What a server refuses: forms, routes, content types, hosts and media, each with a clear error."""

import json
from typing import Any

import pytest

from membridge.conversation import Conversation, Reply
from tests.fixtures_serving import NAME, QUESTION
from tests.membridge.serving.limited_server import ASK, Served, chat, error_of, wait_for


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
