"""Lets a model caption every scene of a video when the scene ends, while the video plays."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from components.model import VideoLanguageModel
from components.streaming import StreamingSession
from membridge.live.caption_files import Caption
from membridge.live.frame_queue import LiveFrame

MOST_FRAMES = 256
"""Frames of the open scene that are stored for ``about="scene"``; of a longer scene every second one, and so on."""
_FRAMES_AT_ONCE = 16


class CaptionOptions(NamedTuple):
    """What captions are about."""

    question: str = "Describe what happens."
    about: Literal["scene", "video"] = "scene"  # what the question shows the model: the scene, or the video so far
    max_new_tokens: int = 64
    step_ms: int = 500  # time for which a frame is on display, where no frame follows


class SceneCaptioner:
    """Takes the frames of a video and gives a caption for every scene that has ended.

    Scenes are those of ``StreamingSession``. With ``about="scene"`` the question is asked about a video of the scene
    alone, which is encoded for a second time. With ``about="video"`` it is asked about the complete video up to the
    frame that shows that the scene has ended.

    Args:
        model: A model in evaluation mode.
        options: What captions are about.

    Raises:
        ValueError: The model cannot stream; see ``StreamingSession``.
    """

    def __init__(self, model: VideoLanguageModel, options: CaptionOptions) -> None:
        self._model = model
        self._options = options
        self._session = StreamingSession(model)
        self._num_scenes = 0
        self._first = 0  # number of the open scene's first frame
        self._times = array("q")  # of all frames from there on
        self._frames: dict[int, Tensor] = {}  # by their number
        self._stride = 1
        self._end_ms = 0  # of the last caption

    @property
    def num_frames(self) -> int:
        """Frames so far."""
        return self._session.num_frames

    @property
    def boundaries(self) -> list[int]:
        """Last frame of every scene that has ended."""
        return self._session.boundaries

    @property
    def frames_at_once(self) -> int:
        """Frames that ``push`` should get at most: a question about the video so far must not show later frames."""
        return 1 if self._options.about == "video" else _FRAMES_AT_ONCE

    def push(self, frames: Sequence[LiveFrame]) -> Iterator[Caption]:
        """Take the next frames; gives a caption for every scene that they end. Iterate to the end.

        Args:
            frames: At most ``frames_at_once``.
        """
        number = self._session.num_frames
        self._session.push(torch.stack([each.pixels for each in frames]), [each.time_ms for each in frames])
        self._times.extend(each.time_ms for each in frames)
        if self._options.about == "scene":
            self._frames |= {number + offset: each.pixels for offset, each in enumerate(frames)}
            self._thin()
        for last in self._session.boundaries[self._num_scenes :]:
            yield self._close(last)

    def finish(self) -> Iterator[Caption]:
        """The caption of the last scene, which the end of the video ends; nothing if no frame is left."""
        if self._times:
            yield self._close(self._session.num_frames - 1)

    def _close(self, last: int) -> Caption:
        count = last + 1 - self._first
        times, self._times = self._times[:count], self._times[count:]
        following = self._times[0] if self._times else times[-1] + self._options.step_ms
        start_ms = max(times[0], self._end_ms)
        text = self._ask(last, times)
        self._end_ms = max(following, start_ms + 1)
        self._first = last + 1
        self._num_scenes += 1
        self._frames = {number: frame for number, frame in self._frames.items() if number > last}
        self._stride = 1
        return Caption(start_ms, self._end_ms, count, text)

    def _ask(self, last: int, times: Sequence[int]) -> str:
        if self._options.about == "video":
            return self._session.ask(self._options.question, self._options.max_new_tokens)
        numbers = self._evenly(number for number in self._frames if number <= last)
        if not numbers:  # a short scene that was found so late that it had been thinned out
            numbers = [min(self._frames, key=lambda number: abs(number - last))]
        scene = StreamingSession(self._model)
        for first in range(0, len(numbers), _FRAMES_AT_ONCE):
            some = numbers[first : first + _FRAMES_AT_ONCE]
            frame_ms = [times[min(number, last) - self._first] - times[0] for number in some]
            scene.push(torch.stack([self._frames[number] for number in some]), frame_ms)
        return scene.ask(self._options.question, self._options.max_new_tokens)

    def _evenly(self, numbers: Iterable[int]) -> list[int]:
        """Those of the numbers that a scene which was thinned has evenly; all where none would be left."""
        given = list(numbers)
        return [number for number in given if (number - self._first) % self._stride == 0] or given

    def _thin(self) -> None:
        """Bound the stored frames of a scene that does not end: every second one, every fourth one, and so on."""
        newest = self._session.num_frames - 1
        while len(self._frames) > MOST_FRAMES:
            remaining = self._evenly(self._frames)
            if len(remaining) > MOST_FRAMES // 2:
                self._stride *= 2
                remaining = self._evenly(remaining)
            self._frames = {number: self._frames[number] for number in {**dict.fromkeys(remaining), newest: None}}
