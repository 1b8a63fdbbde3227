"""A video that still plays: its scenes so far, and answers about what was shown until now."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from components.interfaces import DecodingSettings, FrameFeatures, Streamer
from components.model import VideoLanguageModel
from components.segmenters.depth import adjacent_similarity
from components.streaming import StreamingSession
from datamodules.media.sample_media import SampleMedia
from membridge.opened_medium import Scene


class EndedScene(NamedTuple):
    """A scene of a playing video that has ended."""

    scene: Scene  # its ``admitted`` is None
    media: SampleMedia  # its frames on the host, with times from the beginning of the scene


class PlayingVideo:
    """Takes the frames of one video as they come. It stores the frames of the open scene only.

    Args:
        model: A model in evaluation mode that can stream. Several videos may share it, one call after the other.

    Attributes:
        scenes: The scenes that have ended. Their ``admitted`` is None.
        frame_ms: Time of every frame.
        similarity: Cosine similarity of neighbouring frames. Frames that wait for a full window of the encoder are not
            in it yet.

    Raises:
        ValueError: The model cannot stream; see ``StreamingSession``.
    """

    def __init__(self, model: VideoLanguageModel) -> None:
        self.model = model
        self.scenes: list[Scene] = []
        self.frame_ms: list[int] = []
        self.similarity: list[float] = []
        self._session = StreamingSession(model)
        self._open: list[Tensor] = []  # frames after the last scene that has ended
        self._last_cls: Tensor | None = None

    def push(self, frames: Tensor, frame_ms: Sequence[int]) -> list[EndedScene]:
        """Take the next frames.

        Args:
            frames: uint8 ``[T, 3, H, W]`` of the size that the encoder reads.
            frame_ms: Time of every frame, not decreasing.

        Returns:
            The scenes that ended with them.

        Raises:
            ValueError: See ``StreamingSession.push``.
        """
        encoded: list[Tensor] = []

        def collect(_module: nn.Module, _inputs: object, output: FrameFeatures) -> None:
            encoded.append(output.cls)

        hook = self.model.encoder.register_forward_hook(collect)
        try:
            self._session.push(frames, frame_ms)
        finally:
            hook.remove()
        self._open.extend(frame.cpu().clone() for frame in frames)  # a view would hold the memory of all
        self.frame_ms.extend(frame_ms)
        for cls in encoded:
            joined = cls if self._last_cls is None else torch.cat([self._last_cls, cls])
            self.similarity.extend(adjacent_similarity(joined).tolist())
            self._last_cls = cls[-1:].clone()
        return self._close_scenes()

    @torch.no_grad()
    def answer(self, question: str, settings: DecodingSettings, streamer: Streamer | None = None) -> str:
        """Answer a question about what was shown so far.

        Args:
            question: Plain text.
            settings: How the answer is chosen.
            streamer: Gets every token as soon as it is chosen.

        Raises:
            ValueError: No frame has been pushed yet.
        """
        language_model = self.model.language_model
        text = language_model.prompts([question])
        state = language_model.prefill(self._session.visual_tokens(text), text, room=settings.max_new_tokens)
        return language_model.decode(state, settings, streamer).texts[0]

    def _close_scenes(self) -> list[EndedScene]:
        first = len(self.frame_ms) - len(self._open)
        ended = []
        for last in self._session.boundaries[len(self.scenes) :]:
            count = last + 1 - first
            times = torch.tensor(self.frame_ms[first : last + 1])
            scene = Scene(int(times[0]), int(times[-1]), count, None)
            ended.append(EndedScene(scene, SampleMedia(torch.stack(self._open[:count]), times - times[0])))
            self._open = self._open[count:]
            self.scenes.append(scene)
            first = last + 1
        return ended
