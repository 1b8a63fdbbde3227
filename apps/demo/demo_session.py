"""What one browser tab of the demo does: reads a video, captions its scenes, answers questions, watches a webcam."""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from components.interfaces import DecodingSettings, NewTokens
from components.model import VideoLanguageModel
from components.streaming import StreamingSession
from datamodules.errors import OversizedMediaError
from datamodules.media.sample_media import SampleMedia
from datamodules.media.transforms import PixelOptions, PixelTransform
from membridge.conversation import Conversation
from membridge.opened_medium import OpenedMedium, Scene, read_medium
from membridge.video_length import has_frame_after

_WEBCAM_FPS = 2.0  # where the model reads a fixed number of frames of a video
_LARGEST_SIDE = 640  # pixels; webcam frames are larger than any encoder reads


@dataclass(frozen=True)
class DemoOptions:
    """Limits and texts of the demo.

    Args:
        question: What is asked about every scene; the answer is its caption.
        max_seconds: Longest video, and longest time of a webcam.
        max_captions: Most scenes of a video that get a caption.
        max_new_tokens: Longest answer; None: as long as in the model's evaluation.
    """

    question: str = "Describe what happens."
    max_seconds: float = 600.0
    max_captions: int = 50
    max_new_tokens: int | None = None

    def settings_for(self, model: VideoLanguageModel) -> DecodingSettings:
        """How answers are chosen: greedily."""
        longest = model.training_facts.max_new_tokens if self.max_new_tokens is None else self.max_new_tokens
        return DecodingSettings(longest)


class Caption(NamedTuple):
    """What the model says about a scene."""

    start_ms: int
    end_ms: int
    text: str


class StoppedError(Exception):
    """Nobody waits for the answer any longer."""


class DemoSession:
    """One browser tab. Its methods are called one at a time, by any thread.

    Args:
        model: A model in evaluation mode; several sessions share it.
        options: Limits and texts.

    Attributes:
        conversation: About the video that was read last.
        captions: Of the video or of the webcam so far, in the order of time.
        live: The webcam's session; None while a file is shown.
    """

    def __init__(self, model: VideoLanguageModel, options: DemoOptions) -> None:
        self.model = model
        self.options = options
        self.conversation = Conversation(model, options.settings_for(model))
        self.captions: list[Caption] = []
        self.live: LiveVideo | None = None

    @property
    def medium(self) -> OpenedMedium | None:
        """The video or picture that was read last."""
        return self.conversation.media[0] if self.conversation.media else None

    def clear(self) -> None:
        """Forget video, webcam and conversation."""
        self.conversation.clear(with_media=True)
        self.captions = []
        self.live = None

    def read(self, path: Path) -> OpenedMedium:
        """Read a video or picture; what was there before is forgotten.

        Raises:
            OSError: The file is missing.
            ValueError: It cannot be decoded, or is too long.
        """
        self.clear()
        longest = self.options.max_seconds
        if has_frame_after(path, round(1000 * longest), self.model.training_facts.frames):
            raise OversizedMediaError(f"{path.name} is longer than {longest:g} s, the most that this page reads")
        return self.conversation.load(path)

    def caption_scenes(self) -> Iterator[Caption]:
        """Caption the scenes of the video, one after another. Each caption is about its scene alone."""
        medium = self.medium
        assert medium is not None
        if medium.read.pictures is not None:  # a picture in tiles is one scene, whose frames are its parts
            yield self._add(medium.scenes[0], medium)
            return
        for scene in medium.scenes[: self.options.max_captions]:
            yield self._add(scene, read_medium(self.model, medium.name, _frames_of(medium, scene)))

    def ask(self, question: str) -> Iterator[str]:
        """Answer a question about the video, or about what the webcam has shown.

        Closing the iterator stops the answer; the conversation is then as it was before.

        Yields:
            The answer so far.

        Raises:
            ValueError: There is nothing to ask about, or the conversation is too long.
        """
        if self.live is not None:
            yield self.live.ask(question)
            return
        if self.medium is None:
            raise ValueError("there is no video yet; upload one, or start the webcam")
        yield from _streamed(self.conversation, question)

    def attention(self) -> list[float] | None:
        """How much the last question attended to each scene; None: no reader shows it."""
        return self.conversation.segment_attention(0) if self.medium is not None else None

    def watch(self, frame: NDArray[np.uint8]) -> bool:
        """Take a frame of the webcam.

        Args:
            frame: RGB ``[H, W, 3]``.

        Returns:
            Whether a scene has ended, which has a caption now.

        Raises:
            ValueError: The model cannot stream, or the webcam has played for too long.
        """
        if self.live is None:
            self.clear()
            self.live = LiveVideo(self.model, self.options)
        new = self.live.push(frame)
        self.captions += new
        return bool(new)

    def _add(self, scene: Scene, medium: OpenedMedium) -> Caption:
        asked = Conversation(self.model, self.conversation.settings)
        asked.add(medium)
        self.captions.append(Caption(scene.start_ms, scene.end_ms, asked.ask(self.options.question).text))
        return self.captions[-1]


class LiveVideo:
    """A webcam's video, read frame by frame.

    Args:
        model: A model that can stream.
        options: Limits and texts.

    Raises:
        ValueError: The model cannot stream.
    """

    def __init__(self, model: VideoLanguageModel, options: DemoOptions) -> None:
        settings = model.training_facts.frames
        self.session = StreamingSession(model)
        self.num_seen = 0  # frames that came; some are left out where they come faster than the model reads
        self._options = options
        self._longest = options.settings_for(model).max_new_tokens
        self._prepare = PixelTransform(PixelOptions(settings.size, settings.fit), train=False)
        self._step_ms = 1000 / (settings.fps or _WEBCAM_FPS)
        self._begin: float | None = None
        self._due_ms = 0.0
        self._times: list[int] = []

    def push(self, frame: NDArray[np.uint8]) -> list[Caption]:
        """Take a frame; gives captions of the scenes that it ends.

        Raises:
            ValueError: The video has played for too long.
        """
        now = time.monotonic()
        self._begin = now if self._begin is None else self._begin
        time_ms = round(1000 * (now - self._begin))
        self.num_seen += 1
        if time_ms > 1000 * self._options.max_seconds:
            raise ValueError(f"the webcam has played for {self._options.max_seconds:g} s, the most on this page; stop it")
        if time_ms < self._due_ms:
            return []
        self._due_ms = time_ms + self._step_ms
        step = max(1, max(frame.shape[:2]) // _LARGEST_SIDE)
        pixels = torch.from_numpy(np.ascontiguousarray(frame[::step, ::step])).permute(2, 0, 1)
        before = len(self.session.boundaries)
        self.session.push(self._prepare(pixels[None], seed=()), [time_ms])
        self._times.append(time_ms)
        ends = self.session.boundaries
        if len(ends) == before:
            return []
        text = self.ask(self._options.question)
        starts = [0, *(end + 1 for end in ends)]
        return [Caption(self._times[starts[n]], self._times[ends[n]], text) for n in range(before, len(ends))]

    def ask(self, question: str) -> str:
        """Answer a question about the video so far."""
        return self.session.ask(question, self._longest)


def _frames_of(medium: OpenedMedium, scene: Scene) -> SampleMedia:
    """The frames of a scene, with times from its beginning on."""
    times = torch.tensor(medium.frame_ms)
    of_scene = (times >= scene.start_ms) & (times <= scene.end_ms)
    return SampleMedia(medium.frames[of_scene], times[of_scene] - scene.start_ms)


def _streamed(conversation: Conversation, question: str) -> Iterator[str]:
    """The answer so far, after each piece of it; the model runs in a thread of its own."""
    pieces: queue.Queue[Any] = queue.Queue()
    stopped = threading.Event()

    def take(tokens: NewTokens) -> None:
        if stopped.is_set():
            raise StoppedError
        pieces.put(tokens.texts[0])

    def run() -> None:
        try:
            with torch.no_grad():  # the setting belongs to the thread
                pieces.put(conversation.ask(question, take))
        except StoppedError:
            pass
        except Exception as error:
            pieces.put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    text = ""
    try:
        while True:
            piece = pieces.get()
            if isinstance(piece, Exception):
                raise piece
            if not isinstance(piece, str):
                yield piece.text or "(the model gave an empty answer)"
                return
            text += piece
            if piece:
                yield text
    finally:
        stopped.set()
        thread.join()

