"""Encodes a video that still plays, window by window."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from components.interfaces import FrameFeatures
from components.model import VideoLanguageModel


class EncodedFrames(NamedTuple):
    """Features of neighbouring frames."""

    features: FrameFeatures
    frame_ms: Tensor  # [T] int64

    def part(self, frames: slice) -> "EncodedFrames":
        """Some of the frames, as views."""
        return EncodedFrames(self.features.of_frames(frames), self.frame_ms[frames])


class WaitingFrames(NamedTuple):
    """Frames of one video that are not encoded yet."""

    frames: Tensor  # [T, ...] as the encoder reads them
    frame_ms: Tensor  # [T] int64
    num_full: int  # so many of them fill windows


def encode_full_windows(model: VideoLanguageModel, waiting: Sequence[WaitingFrames]) -> list[EncodedFrames | None]:
    """Encode the full windows of one or more videos in one call.

    Args:
        model: Its encoder is used, and what makes fewer patches.
        waiting: The frames of every video.

    Returns:
        The features of every video's full windows; None where no window is full.
    """
    counts = [each.num_full for each in waiting if each.num_full]
    if not counts:
        return [None] * len(waiting)
    frames = torch.cat([each.frames[: each.num_full] for each in waiting if each.num_full])
    features = model.reduce_patches(model.encoder(frames, torch.tensor(counts)))
    found: list[EncodedFrames | None] = []
    first = 0
    for each in waiting:
        own = features.of_frames(slice(first, first + each.num_full))
        if len(counts) > 1:
            # Copied: a view would hold the memory of all videos.
            own = tree_map_only(Tensor, Tensor.clone, own)
        found.append(EncodedFrames(own, each.frame_ms[: each.num_full]) if each.num_full else None)
        first += each.num_full
    return found


class WindowEncoder:
    """Encodes frames window by window.

    Args:
        model: Its encoder is used, and what makes fewer patches.

    Raises:
        ValueError: All frames of a video attend to each other.
    """

    def __init__(self, model: VideoLanguageModel) -> None:
        encoder = model.encoder
        if encoder.window_frames is None:
            raise ValueError(
                f"in {type(encoder).__name__} all frames of a video attend to each other, so it cannot encode one "
                "that still plays; stream with an encoder that has window_frames"
            )
        self._model = model
        self._size = encoder.window_frames
        self._full: Tensor | None = None  # frames of the last full window, if windows are larger than one frame
        self._frames: list[Tensor] = []  # of the window that is not full yet
        self._times: list[Tensor] = []

    def waiting_with(self, frames: Tensor, frame_ms: Tensor) -> WaitingFrames:
        """The frames that wait for their window to be full, and the next ones; changes nothing."""
        frames, frame_ms = torch.cat([*self._frames, frames]), torch.cat([*self._times, frame_ms])
        return WaitingFrames(frames, frame_ms, len(frames) // self._size * self._size)

    def encoded(self, waiting: WaitingFrames) -> None:
        """Go on after the full windows of ``waiting_with``, which have been encoded."""
        frames, frame_ms, num_full = waiting
        # Copied, because a view of a part would hold the memory of all.
        self._frames, self._times = [frames[num_full:].clone()], [frame_ms[num_full:].clone()]
        if num_full and self._size > 1:
            self._full = frames[num_full - self._size : num_full].clone()

    def encode_rest(self) -> EncodedFrames | None:
        """Encode the frames whose window is not full, as if the video ended with them; changes nothing."""
        frames, frame_ms = torch.cat(self._frames), torch.cat(self._times)
        if len(frames) == 0:
            return None
        if self._full is None:
            return self._encode(frames, frame_ms)
        # With the full window in front they are the end of a longer video: an encoder may treat a video of one frame
        # as an image.
        return self._encode(torch.cat([self._full, frames]), frame_ms)

    def _encode(self, frames: Tensor, frame_ms: Tensor) -> EncodedFrames:
        """Encode frames; returns the features of the last ``len(frame_ms)`` of them."""
        count = torch.tensor([len(frames)])
        features = self._model.reduce_patches(self._model.encoder(frames, count))
        new = len(frames) - len(frame_ms)
        return EncodedFrames(features.of_frames(slice(new, None)), frame_ms)
