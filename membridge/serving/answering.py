"""Answers chat requests with a model: reads the media that they show, then asks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from components.interfaces import LanguageState, TextInputs, VisualTokens
from components.model import VideoLanguageModel
from datamodules.errors import OversizedMediaError, SampleError
from datamodules.media.decoding import Decoding
from datamodules.media.sample_media import SampleMedia
from membridge.conversation import Conversation
from membridge.media_files import read_media_file
from membridge.opened_medium import OpenedMedium, read_medium
from membridge.serving.answer_text import AnswerText, StopTextError
from membridge.serving.api_errors import ApiError, as_api_error
from membridge.serving.chat_request import ChatRequest, MediaPart
from membridge.serving.media_sources import MediaFile, MediaSources
from membridge.serving.read_media_cache import ReadMediaCache
from membridge.serving.serving_limits import ServingLimits
from membridge.serving.worker_thread import CancelFlag, WorkerThread
from membridge.video_length import has_frame_after

_NUM_SOURCES = 4  # downloads at the same time

OnText = Callable[[str], None]


class Answer(NamedTuple):
    """An answer, and what it took."""

    text: str
    prompt_tokens: int  # visual tokens included
    visual_tokens: int
    new_tokens: int
    is_cut: bool  # it is as long as allowed, so it may not have ended


class ChatModel:
    """Answers chat requests: one thread decodes, another runs the model, and some wait for downloads.

    Args:
        model: A model in evaluation mode.
        sources: Opens the files that requests name.
        limits: Limits of the server.
    """

    def __init__(self, model: VideoLanguageModel, sources: MediaSources, limits: ServingLimits) -> None:
        self.model = model
        self.model_thread = WorkerThread("model")
        self.media_thread = WorkerThread("media")
        self._source_threads = WorkerThread("sources", _NUM_SOURCES)
        self._sources = sources
        self._limits = limits
        self._decoding = Decoding(timeout_s=limits.decoding_seconds)
        self._read = ReadMediaCache(limits.cache_bytes)

    def stop(self) -> None:
        """Finish what runs, and end the threads."""
        self._source_threads.stop()
        self.media_thread.stop()
        self.model_thread.stop()

    async def answer(self, request: ChatRequest, on_text: OnText | None = None) -> Answer:
        """Answer a request.

        Args:
            request: The request.
            on_text: Gets each piece of the answer as it comes, on the model's thread.

        Raises:
            ApiError: A medium cannot be found or decoded.
            ValueError: The conversation is longer than the context, or has turns that the template refuses.
        """
        media = [await self._medium(part) for part in request.media]
        return await self.model_thread.run(lambda flag: self._ask(request, media, flag, on_text))

    async def _medium(self, part: MediaPart) -> OpenedMedium:
        """A medium that the model has read, now or before."""
        file = await self._source_threads.run(lambda flag: self._sources.open(part), MediaFile.close)
        try:
            key = (file.key, part.start_ms, part.end_ms)
            known = self._read.get(key)
            if known is not None:
                return known
            frames = await self.media_thread.run(lambda flag: self._decode(file, part))
        finally:
            self.media_thread.run_later(file.close)  # not while it decodes the file for a caller that is gone
        return await self.model_thread.run(lambda flag: self._read.put(key, read_medium(self.model, file.name, frames)))

    def _decode(self, file: MediaFile, part: MediaPart) -> SampleMedia:
        settings = self.model.training_facts.frames
        most_ms = int(1000 * self._limits.video_seconds)
        start = part.start_ms or 0
        try:
            if part.end_ms is None or part.end_ms - start > most_ms:
                self._refuse_long_video(file, start + most_ms, part.where)
            return read_media_file(
                file.path, settings, start_ms=part.start_ms, end_ms=part.end_ms, decoding=self._decoding
            )
        except SampleError as error:
            raise refusal_of_media(error, file.path, file.name, part.where) from error

    def _refuse_long_video(self, file: MediaFile, end_ms: int, where: str) -> None:
        """Refuse a video that has a frame at this time, before all its frames are decoded."""
        if not has_frame_after(file.path, end_ms, self.model.training_facts.frames, self._decoding):
            return
        raise OversizedMediaError(
            f"{file.path} is longer than {self._limits.video_seconds:g} s, the most that this server reads; show a "
            f"part of it with start_ms and end_ms in {where}"
        )

    def _ask(
        self, request: ChatRequest, media: Sequence[OpenedMedium], flag: CancelFlag, on_text: OnText | None
    ) -> Answer:
        conversation = _MeasuredConversation(self.model, request.options.settings)
        for medium in media:
            conversation.add(medium)
        *earlier, (_, question) = request.turns
        conversation.resume(earlier)
        streamer = AnswerText(request.options.stop, flag, on_text)
        try:
            reply = conversation.ask(question, streamer)
        except StopTextError:
            return Answer(streamer.text.strip(), *conversation.read, streamer.num_tokens, False)
        is_cut = reply.new_tokens >= request.options.settings.max_new_tokens
        return Answer(reply.text, *conversation.read, reply.new_tokens, is_cut)


class _MeasuredConversation(Conversation):
    """Knows what it has read also if the answer is ended early.

    Attributes:
        read: Tokens read for the last question, and how many of them are visual.
    """

    read = (0, 0)

    def _read(self, text: TextInputs, visual: VisualTokens | None) -> LanguageState:
        state = super()._read(text, visual)
        self.read = state.lengths[0], 0 if visual is None else int(visual.mask.sum())
        return state


def refusal_of_media(error: SampleError, path: Path, name: str, where: str) -> ApiError:
    """What a client sees of an error about a file, under the name that it gave the file.

    Args:
        error: The error.
        path: The file.
        name: The client's name of it.
        where: Its position in the request.
    """
    found = as_api_error(error)
    return ApiError(found.status, found.message.replace(str(path), name), code=found.code, param=where)
