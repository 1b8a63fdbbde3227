"""What one browser tab of the demo does: reads a video, captions its scenes, answers questions, watches a webcam."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from apps.demo.answer_pieces import StoppedError, StopSign, answer_pieces
from apps.demo.webcam import Webcam
from components.interfaces import DecodingSettings, Streamer
from components.model import VideoLanguageModel
from datamodules.errors import OversizedMediaError
from datamodules.media.sample_media import SampleMedia
from membridge.conversation import Conversation
from membridge.media_files import read_media_file
from membridge.opened_medium import OpenedMedium, Scene, read_medium
from membridge.video_length import has_frame_after


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


class DemoSession:
    """One browser tab. A new video ends what still runs about the one before.

    Args:
        model: A model in evaluation mode; several sessions share it.
        options: Limits and texts.
        model_lock: Held while the model works. It does so for one session at a time, a step each: a reading, a caption,
            an answer, a frame of a webcam.

    Attributes:
        conversation: About the video that was read last.
        captions: Of the video or of the webcam so far, in the order of time.
        webcam: The webcam's video; None while a file is shown.
        path: File of the video that was read last.
        takes_webcam: Whether frames of the webcam are read. They may go on while the user shows a file.
    """

    def __init__(self, model: VideoLanguageModel, options: DemoOptions, model_lock: threading.Lock) -> None:
        self.model = model
        self.options = options
        self.conversation = Conversation(model, options.settings_for(model))
        self.captions: list[Caption] = []
        self.webcam: Webcam | None = None
        self.path: Path | None = None
        self.takes_webcam = False
        self._model_lock = model_lock
        self._reading = StopSign()
        self._answering = StopSign()

    @property
    def medium(self) -> OpenedMedium | None:
        """The video that was read last."""
        return self.conversation.media[0] if self.conversation.media else None

    def clear(self) -> None:
        """Forget video, webcam and conversation, and stop what still runs about them."""
        self._reading.set()
        self._answering.set()
        # New ones, because a thread that has not ended yet may still change the old ones.
        self.conversation = Conversation(self.model, self.conversation.settings)
        self.captions = []
        self.webcam = None
        self.path = None

    def clear_chat(self) -> None:
        """Forget questions and answers; the video stays."""
        self._answering.set()
        medium, self.conversation = self.medium, Conversation(self.model, self.conversation.settings)
        if medium is not None:
            self.conversation.add(medium)

    def stop_answer(self) -> None:
        """End the answer that is being written; the conversation is as it was before the question."""
        self._answering.set()

    def read(self, path: Path) -> OpenedMedium:
        """Read a video; what was there before is forgotten.

        Raises:
            OSError: The file is missing.
            ValueError: It cannot be decoded, or is too long.
            StoppedError: Another video was chosen meanwhile.
        """
        self.clear()
        self.takes_webcam = False
        self.path, self._reading, conversation = path, StopSign(), self.conversation
        longest, stop = self.options.max_seconds, self._reading
        frames = self.model.training_facts.frames
        if has_frame_after(path, round(1000 * longest), frames):
            raise OversizedMediaError(
                f"{path.name} is longer than {longest:g} seconds, the most that this page reads; cut it, or start the "
                "page with a larger --max-seconds"
            )
        media = read_media_file(path, frames)
        with self._model_lock:
            stop.check()
            medium = read_medium(self.model, path.name, media)
        stop.check()
        conversation.add(medium)
        return medium

    def caption_scenes(self) -> Iterator[Caption]:
        """Caption the scenes of the video, one after another. Each caption is about its scene alone.

        Raises:
            StoppedError: Another video was chosen meanwhile.
        """
        medium, stop, captions = self.medium, self._reading, self.captions
        assert medium is not None
        for scene in medium.scenes[: self.options.max_captions]:
            with self._model_lock:
                stop.check()
                captions.append(self._caption(scene, _frames_of(medium, scene)))
            yield captions[-1]

    def ask(self, question: str) -> Iterator[str]:
        """Answer a question about the video, or about what the webcam has shown.

        If the iterator is closed or fails, the conversation is as it was before.

        Yields:
            The answer so far.

        Raises:
            ValueError: There is nothing to ask about, or the conversation is too long.
            StoppedError: The answer was stopped.
        """
        if self.webcam is None and self.medium is None:
            raise ValueError("there is no video yet: upload one, or start the webcam")
        self._answering.set()  # of an answer that still runs
        stop = self._answering = StopSign()
        webcam, conversation = self.webcam, self.conversation

        def answer(streamer: Streamer) -> None:
            with self._model_lock:
                stop.check()
                if webcam is None:
                    conversation.ask(question, streamer)
                else:
                    webcam.video.answer(question, conversation.settings, streamer)

        text = ""
        for piece in answer_pieces(answer, stop):
            text += piece
            yield text.strip()
        if not text.strip():
            yield "(the model gave an empty answer)"

    def attention(self) -> list[float] | None:
        """How much was attended to each scene for the answers; None: no reader shows it, or nothing was asked yet."""
        return self.conversation.segment_attention(0) if self.medium is not None else None

    def watch(self, frame: NDArray[np.uint8]) -> bool:
        """Take a frame of the webcam.

        Args:
            frame: RGB ``[H, W, 3]``.

        Returns:
            Whether the model has read it: frames that come faster than in training are left out.

        Raises:
            ValueError: The model cannot stream, or the webcam has played for too long.
        """
        if not self.takes_webcam:
            return False
        if self.webcam is None:
            webcam = Webcam(self.model, self.options.max_seconds)
            self.clear()
            self.webcam = webcam
        webcam, captions = self.webcam, self.captions
        time_ms = webcam.time_to_read()
        if time_ms is None:
            return False
        with self._model_lock:
            for ended in webcam.push(frame, time_ms):
                captions.append(self._caption(ended.scene, ended.media))
        return True

    def _caption(self, scene: Scene, media: SampleMedia) -> Caption:
        asked = Conversation(self.model, self.conversation.settings)
        asked.add(read_medium(self.model, "scene", media))
        return Caption(scene.start_ms, scene.end_ms, asked.ask(self.options.question).text)


def _frames_of(medium: OpenedMedium, scene: Scene) -> SampleMedia:
    """The frames of a scene, with times from its beginning on."""
    times = torch.tensor(medium.frame_ms)
    of_scene = (times >= scene.start_ms) & (times <= scene.end_ms)
    return SampleMedia(medium.frames[of_scene], times[of_scene] - scene.start_ms)


__all__ = ["Caption", "DemoOptions", "DemoSession", "StoppedError"]
