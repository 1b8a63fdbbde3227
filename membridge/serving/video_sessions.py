"""Sessions of clients that send a video frame by frame and ask while it plays."""

import asyncio
import dataclasses
import secrets
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from components.streaming import StreamingSession
from datamodules.errors import BrokenMediaError, SampleError
from datamodules.media.decoding import Decoding
from datamodules.media.file_formats import HEAD_BYTES, VIDEO_FORMATS, format_of
from membridge.media_files import read_media_file
from membridge.serving.answer_text import AnswerText, StopTextError
from membridge.serving.answering import Answer, ChatModel, OnText, refusal_of_media
from membridge.serving.api_errors import ApiError
from membridge.serving.chat_request import AnswerOptions
from membridge.serving.serving_limits import ServingLimits
from membridge.serving.worker_thread import CancelFlag


@dataclass
class VideoSession:
    """A video that still plays."""

    id: str
    stream: StreamingSession
    created: float = field(default_factory=time.time)  # seconds since 1970
    last_used: float = field(default_factory=time.monotonic)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # frames stay in the order of their requests


class VideoSessions:
    """The sessions of a server. Its methods belong to the event loop's thread.

    Args:
        chat: The model and its threads.
        limits: Limits of the server.
        folder: Folder for pictures while they are decoded.
    """

    def __init__(self, chat: ChatModel, limits: ServingLimits, folder: Path) -> None:
        self._chat = chat
        self._limits = limits
        self._folder = folder
        self._sessions: dict[str, VideoSession] = {}
        self._starting = 0

    def __len__(self) -> int:
        return len(self._sessions)

    async def start(self) -> VideoSession:
        """Start a session.

        Raises:
            ApiError: There are as many as allowed, or the model needs to know the complete video.
        """
        if len(self._sessions) + self._starting >= self._limits.sessions:
            raise ApiError(
                429,
                f"there are {self._limits.sessions} sessions, as many as this server keeps; delete one that is no "
                "longer needed, or try again later",
                code="too_many_sessions",
            )
        self._starting += 1
        try:
            stream = await self._chat.model_thread.run(lambda flag: StreamingSession(self._chat.model))
        except ValueError as error:
            raise ApiError(400, f"this model cannot stream: {error}", code="cannot_stream") from error
        finally:
            self._starting -= 1
        session = VideoSession(f"session-{secrets.token_hex(12)}", stream)
        self._sessions[session.id] = session
        return session

    def get(self, identity: str) -> VideoSession:
        """A session by its id. Counts as a use of it.

        Raises:
            ApiError: There is none.
        """
        session = self._sessions.get(identity)
        if session is None:
            raise ApiError(
                404,
                f"there is no session {identity[:64]!r}; start one by POST /v1/sessions (sessions that are not used "
                f"for {self._limits.session_seconds:.0f} s are removed)",
                code="session_not_found",
            )
        session.last_used = time.monotonic()
        return session

    def delete(self, identity: str) -> None:
        """End a session.

        Raises:
            ApiError: There is none.
        """
        del self._sessions[self.get(identity).id]

    def remove_unused(self) -> None:
        """End the sessions that were not used for too long."""
        oldest = time.monotonic() - self._limits.session_seconds
        for session in list(self._sessions.values()):
            if session.last_used < oldest and not session.lock.locked():
                del self._sessions[session.id]

    async def push(self, session: VideoSession, pictures: Sequence[BinaryIO], times_ms: Sequence[int]) -> None:
        """Take the next frames of a session; none of them if one is refused.

        Args:
            session: The session.
            pictures: JPEG, PNG or WebP files.
            times_ms: Time of each in the video.

        Raises:
            ApiError: A picture cannot be decoded, times and pictures do not fit together, times decrease, or the
                session is full.
        """
        async with session.lock:
            self._check_times(session, len(pictures), times_ms)
            frames = await self._chat.media_thread.run(lambda flag: self._decode(pictures, flag))

            def take(_flag: CancelFlag) -> None:
                # Again: a push whose client has gone gives the lock back, but may still have taken its frames.
                self._check_times(session, len(pictures), times_ms)
                session.stream.push(frames, times_ms)

            await self._chat.model_thread.run(take)
            session.last_used = time.monotonic()

    async def ask(
        self, session: VideoSession, question: str, options: AnswerOptions, on_text: OnText | None = None
    ) -> Answer:
        """Answer a question about what a session has seen so far. It changes nothing.

        Raises:
            ApiError: The session has seen no frame.
            ValueError: The question is longer than the context, or has several ``<video>`` marks.
        """
        async with session.lock:
            if session.stream.num_frames == 0:
                raise ApiError(
                    400, "the session has no frame yet; send some by POST /v1/sessions/ID/frames", code="no_frames"
                )
            answer = await self._chat.model_thread.run(
                lambda flag: self._answer(session.stream, question, options, flag, on_text)
            )
            session.last_used = time.monotonic()
            return answer

    def document(self, session: VideoSession) -> dict[str, Any]:
        """A session as clients see it."""
        left = self._limits.session_seconds - (time.monotonic() - session.last_used)
        return {
            "id": session.id,
            "object": "session",
            "created_at": int(session.created),
            "expires_at": int(time.time() + left),
            "num_frames": session.stream.num_frames,
            "boundaries": session.stream.boundaries,
            "last_ms": session.stream.last_ms or 0,
        }

    def _check_times(self, session: VideoSession, num_pictures: int, times_ms: Sequence[int]) -> None:
        if not num_pictures or num_pictures != len(times_ms):
            raise ApiError(
                400,
                f"the form has {num_pictures} pictures and {len(times_ms)} times; send one time in times_ms for each "
                "picture in frames",
                code="bad_value",
                param="times_ms",
            )
        last_ms = session.stream.last_ms or 0
        if any(later < earlier for earlier, later in zip([last_ms, *times_ms], times_ms, strict=False)):
            raise ApiError(
                400,
                f"times_ms must not decrease, also not below {last_ms}, the last time of the session",
                code="bad_value",
                param="times_ms",
            )
        if session.stream.num_frames + num_pictures > self._limits.session_frames:
            raise ApiError(
                400,
                f"a session takes at most {self._limits.session_frames} frames; start another one",
                code="session_full",
            )

    def _decode(self, pictures: Sequence[BinaryIO], flag: CancelFlag) -> Tensor:
        """Pictures as frames ``[T, 3, H, W]``, prepared as frames of a video are."""
        settings = dataclasses.replace(self._chat.model.training_facts.frames, tiles_per_side=None)
        decoding = Decoding(timeout_s=self._limits.decoding_seconds)
        frames = []
        for number, picture in enumerate(pictures):
            flag.check()
            with tempfile.TemporaryFile(dir=self._folder) as content:
                content.write(picture.read())
                content.flush()
                path, name = Path(f"/proc/self/fd/{content.fileno()}"), f"frames[{number}]"
                content.seek(0)
                try:
                    if format_of(content.read(HEAD_BYTES)) in VIDEO_FORMATS:
                        raise BrokenMediaError(f"{path} is a video; send frames as JPEG, PNG or WebP")
                    frames.append(read_media_file(path, settings, decoding=decoding).frames)
                except SampleError as error:
                    raise refusal_of_media(error, path, name, name) from error
        return torch.cat(frames)

    def _answer(
        self, stream: StreamingSession, question: str, options: AnswerOptions, flag: CancelFlag, on_text: OnText | None
    ) -> Answer:
        language_model = self._chat.model.language_model
        text = language_model.prompts([question])
        visual = stream.visual_tokens(text)
        most = options.settings.max_new_tokens
        state = language_model.prefill(visual, text, room=most)
        read = state.lengths[0], int(visual.mask[0].sum())
        streamer = AnswerText(options.stop, flag, on_text)
        try:
            answers = language_model.decode(state, options.settings, streamer)
        except StopTextError:
            return Answer(streamer.text.strip(), *read, streamer.num_tokens, False)
        num_tokens = len(answers.token_ids[0])
        return Answer(answers.texts[0], *read, num_tokens, num_tokens >= most)
