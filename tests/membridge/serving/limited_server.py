"""A server with tight limits, answers that take long, and what replies should be. The fixtures are in conftest.py."""

import re
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from components.interfaces import NewTokens, Streamer
from components.model import VideoLanguageModel
from membridge.conversation import Conversation, Reply
from membridge.serving.serving_limits import ServingLimits
from tests.fixtures_serving import NAME, QUESTION

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


class SlowAnswers:
    """Lets conversations write a token every few milliseconds until the event ``end`` is set.

    Attributes:
        end: Set it to end all answers.
        running: Is set once an answer has begun.
        cancelled: Number of answers that were cancelled.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.end = threading.Event()
        self.running = threading.Event()
        self.cancelled = 0
        patch.setattr(Conversation, "ask", self._ask_function())

    def wait_until_cancelled(self) -> None:
        """Wait until one answer was cancelled."""
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
    """The error in a reply with this status; its message shows nothing of the server's inside."""
    assert reply.status_code == status, reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert not re.search(r"Traceback|/tmp|/proc|\.py", error["message"])
    return error


def chat(served: Served, *urls: str) -> httpx.Response:
    """Ask a question about media."""
    content = [{"type": "video_url", "video_url": {"url": url}} for url in urls]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": QUESTION}]}]
    return served.client.post("/v1/chat/completions", json={"model": NAME, "messages": messages})
