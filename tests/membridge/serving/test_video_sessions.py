"""Frames of a session when a push fails or its client goes away."""

import asyncio
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.streaming import StreamingSession
from membridge.serving.answering import ChatModel
from membridge.serving.api_errors import ApiError
from membridge.serving.media_sources import MediaSources
from membridge.serving.public_download import DownloadRules
from membridge.serving.serving_limits import ServingLimits
from membridge.serving.stored_files import FileStore
from membridge.serving.video_sessions import VideoSession, VideoSessions
from tests.fixtures_data import make_image
from tests.fixtures_models import PartFolders
from tests.fixtures_serving import make_served_model

LIMITS = ServingLimits(session_frames=4)


@pytest.fixture
def sessions(folders: PartFolders, tmp_path: Path) -> Iterator[VideoSessions]:
    sources = MediaSources(FileStore(tmp_path, 10_000, 60), DownloadRules((), 1000, 1), None)
    chat = ChatModel(make_served_model(folders), sources, LIMITS)
    yield VideoSessions(chat, LIMITS, tmp_path)
    chat.stop()


def pictures(number: int) -> list[io.BytesIO]:
    return [io.BytesIO(make_image(50)) for _ in range(number)]


def test_times_after_a_push_that_the_bridge_failed_on_follow_the_frames_that_were_taken(
    sessions: VideoSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = StreamingSession.push

    def take_and_fail(stream: StreamingSession, frames: Tensor, frame_ms: list[int]) -> None:
        push(stream, frames, frame_ms)
        raise torch.OutOfMemoryError

    async def fail_and_push_again() -> VideoSession:
        session = await sessions.start()
        with monkeypatch.context() as patch:
            patch.setattr(StreamingSession, "push", take_and_fail)
            with pytest.raises(torch.OutOfMemoryError):
                await sessions.push(session, pictures(1), [500])
        with pytest.raises(ApiError, match="not below 500"):
            await sessions.push(session, pictures(1), [400])
        return session

    session = asyncio.run(fail_and_push_again())
    assert (session.stream.num_frames, sessions.document(session)["last_ms"]) == (1, 500)


@pytest.mark.parametrize(
    ("times", "code"), [([400], "bad_value"), ([600, 700], "session_full")], ids=["earlier", "too_many"]
)
def test_a_push_sees_the_frames_of_a_push_whose_client_has_gone(
    sessions: VideoSessions, monkeypatch: pytest.MonkeyPatch, times: list[int], code: str
) -> None:
    push, begun, may_end = StreamingSession.push, threading.Event(), threading.Event()

    def wait_and_push(stream: StreamingSession, frames: Tensor, frame_ms: list[int]) -> None:
        begun.set()
        assert may_end.wait(20)
        push(stream, frames, frame_ms)

    monkeypatch.setattr(StreamingSession, "push", wait_and_push)

    async def leave_and_push_again() -> VideoSession:
        session = await sessions.start()
        first = asyncio.create_task(sessions.push(session, pictures(3), [300, 400, 500]))
        assert await asyncio.to_thread(begun.wait, 20)
        first.cancel()
        second = asyncio.create_task(sessions.push(session, pictures(len(times)), times))
        await asyncio.sleep(0.5)  # the second is decoded, and waits for the model's thread
        may_end.set()
        with pytest.raises(ApiError) as refused:
            await second
        assert refused.value.code == code
        return session

    session = asyncio.run(leave_and_push_again())
    assert (session.stream.num_frames, session.stream.last_ms) == (3, 500)
