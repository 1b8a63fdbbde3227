"""Frames of a webcam as a model reads them: its times, its size, its rate."""

import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.model import VideoLanguageModel
from datamodules.media.transforms import PixelOptions, PixelTransform
from membridge.opened_medium import Scene
from membridge.playing_video import EndedScene, PlayingVideo

_FPS = 2.0  # where the model was trained on a fixed number of frames of a video
_LARGEST_SIDE = 640  # pixels; webcam frames are larger than any encoder reads


class Webcam:
    """A webcam's video, read frame by frame at the rate of the training.

    Args:
        model: A model that can stream.
        max_seconds: Longest time.

    Attributes:
        video: What the model has read.
        pictures: A frame of every scene that has ended, uint8 ``[3, H, W]``.

    Raises:
        ValueError: The model cannot stream.
    """

    def __init__(self, model: VideoLanguageModel, max_seconds: float) -> None:
        settings = model.training_facts.frames
        self.video = PlayingVideo(model)
        self.pictures: list[Tensor] = []
        self._max_seconds = max_seconds
        self._prepare = PixelTransform(PixelOptions(settings.size, settings.fit), train=False)
        self._step_ms = 1000 / (settings.fps or _FPS)
        self._begin: float | None = None
        self._due_ms = 0.0

    @property
    def scenes(self) -> list[Scene]:
        """The scenes that have ended."""
        return self.video.scenes

    def time_to_read(self) -> int | None:
        """Time of a frame that comes now, in milliseconds; None if it comes too early to be read.

        Raises:
            ValueError: The webcam has played for too long.
        """
        now = time.monotonic()
        self._begin = now if self._begin is None else self._begin
        time_ms = round(1000 * (now - self._begin))
        if time_ms > 1000 * self._max_seconds:
            raise ValueError(
                f"the webcam has played for {self._max_seconds:g} seconds, the most on this page; stop it, and press "
                "'Begin again' for a new video"
            )
        if time_ms < self._due_ms:
            return None
        self._due_ms = max(self._due_ms + self._step_ms, time_ms + self._step_ms / 2)
        return time_ms

    def push(self, frame: NDArray[np.uint8], time_ms: int) -> list[EndedScene]:
        """Take a frame.

        Args:
            frame: RGB ``[H, W, 3]``.
            time_ms: Its time.

        Returns:
            The scenes that it ends.
        """
        step = max(1, max(frame.shape[:2]) // _LARGEST_SIDE)
        pixels = torch.from_numpy(np.ascontiguousarray(frame[::step, ::step])).permute(2, 0, 1)
        ended = self.video.push(self._prepare(pixels[None], seed=()), [time_ms])
        self.pictures += [each.media.frames[len(each.media.frames) // 2].clone() for each in ended]
        return ended
