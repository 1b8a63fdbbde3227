"""Reads the frames of a video that plays, in a thread of its own."""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from components.pretrained.frame_settings import FrameSettings
from datamodules.errors import BrokenMediaError
from datamodules.media.decoded_frames import FrameSize
from datamodules.media.decoding import Decoding
from datamodules.media.transforms import PixelOptions, PixelTransform
from membridge.live.frame_queue import FrameQueue, LiveFrame
from membridge.live.stream_clock import EvenTimes, StreamClock
from membridge.live.video_sources import VideoSource, open_source, shown_name
from membridge.video_time import to_clock

_WAIT_S = 0.2
"""A signal's handler may not take a lock, so what it asks for is looked at so often."""


class StalledStreamError(BrokenMediaError):
    """A source sent no frame for too long."""


class SourceOptions(NamedTuple):
    """What is read, and how."""

    source: str  # see ``video_sources.open_source``
    fps: float  # frames per second for the model
    timeout_s: float = 30.0  # longest time without a frame
    drops_frames: bool | None = None  # whether frames are dropped if the model is slower; None: if the source is live
    ffmpeg: tuple[tuple[str, str], ...] = ()  # FFmpeg's options
    capacity: int = 64  # frames that wait for the model


class LiveFrames:
    """The frames of a source, as a model reads them, while they arrive.

    A thread decodes, samples frames at even times, and prepares them as in training. Frames of a file wait until the
    model takes them. Of a live source frames are dropped evenly where the model is slower; see ``FrameQueue``.

    Args:
        options: What is read, and how.
        settings: Frame settings of the model.
        note: Called by the thread with what a user should know, such as that frames are dropped.
        opener: Opens the source; another one is for tests.

    Raises:
        ValueError: The model reads cached features, no pixels.
    """

    def __init__(
        self,
        options: SourceOptions,
        settings: FrameSettings,
        note: Callable[[str], None],
        opener: Callable[[SourceOptions, FrameSize], VideoSource] | None = None,
    ) -> None:
        if settings.size is None:
            raise ValueError("this model reads cached features of frames, no pixels, so it cannot read a video")
        self._options = options
        self._transform = PixelTransform(PixelOptions(settings.size, settings.fit), train=False)
        self._note = note
        self._open = opener or _open
        self._queue = FrameQueue(options.capacity)
        self._changed = threading.Condition()
        self._last_sign = time.monotonic()
        self._has_ended = False
        self._is_stopped = False
        self.failure: Exception | None = None
        self.drops_frames = False
        self.num_damaged = 0
        self._thread = threading.Thread(target=self._run, name="live-frames", daemon=True)

    def __enter__(self) -> "LiveFrames":
        self._last_sign = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join(1.0)  # it may hang in a read that nothing interrupts

    @property
    def num_sampled(self) -> int:
        """Frames that were sampled so far, dropped ones included."""
        return self._queue.num_offered

    @property
    def num_dropped(self) -> int:
        """Frames that were dropped because the model is slower."""
        return self._queue.num_dropped

    @property
    def is_stopped(self) -> bool:
        """Whether ``stop`` was called."""
        return self._is_stopped

    def stop(self) -> None:
        """End the reading; frames that wait are dropped. A signal's handler may call it."""
        self._is_stopped = True

    def read(self, most: int) -> list[LiveFrame]:
        """Wait for frames and take the oldest ones.

        Args:
            most: Frames to take at most.

        Returns:
            At least one frame. None at the end of the source, after ``stop``, or after a failure, which is in
            ``failure``.
        """
        with self._changed:
            while not self._queue and not self._has_ended and not self._is_stopped:
                left = self._last_sign + self._options.timeout_s - time.monotonic()
                if left <= 0:
                    self.failure = StalledStreamError(
                        f"{shown_name(self._options.source)} sent no frame for {self._options.timeout_s:g} s; check "
                        "the sender, or raise --timeout"
                    )
                    self._has_ended = True
                    break
                self._changed.wait(min(left, _WAIT_S))
            taken = [] if self._is_stopped else self._queue.take(most)
            self._changed.notify_all()
            return taken

    def _run(self) -> None:
        failure: Exception | None = None
        try:
            size = self._transform.frame_size(Decoding().max_pixels)
            source = self._open(self._options, size)
            try:
                self._read_all(source)
            finally:
                source.close()
        except Exception as error:  # the other thread reports it
            failure = error
        with self._changed:
            if not self._has_ended and not self._is_stopped:
                self.failure = failure
            self._has_ended = True
            self._changed.notify_all()

    def _read_all(self, source: VideoSource) -> None:
        drops = self._options.drops_frames
        self.drops_frames = source.is_live if drops is None else drops
        clock = StreamClock(source.period_ms, follows_wall_clock=source.is_live)
        times = EvenTimes(self._options.fps)
        size: tuple[int, int] | None = None
        num_jumps = 0
        for picture in source.pictures():
            self._last_sign = time.monotonic()
            self.num_damaged = source.num_damaged
            time_ms = clock.time_of(picture.time_ms, self._last_sign * 1000)
            if clock.num_jumps > num_jumps:
                num_jumps = clock.num_jumps
                self._note(f"{to_clock(round(time_ms))}: the times in the stream jump; captions count on from here")
            if size is not None and picture.size != size:
                was, now = ("{} x {}".format(*each) for each in (size, picture.size))
                self._note(f"{to_clock(round(time_ms))}: the picture size changes from {was} to {now}")
            size = picture.size
            if times.is_due(time_ms):
                pixels = torch.from_numpy(picture.pixels().copy()).permute(2, 0, 1)
                frame = LiveFrame(self._transform(pixels[None], seed=())[0].contiguous(), round(time_ms))
                self._put(frame)
            if self._is_stopped or self._has_ended:
                return
        self.num_damaged = source.num_damaged

    def _put(self, frame: LiveFrame) -> None:
        with self._changed:
            while not self.drops_frames and self._queue.is_full and not self._is_stopped:
                self._changed.wait(_WAIT_S)
                self._last_sign = time.monotonic()  # the source is not to blame
            if self._is_stopped:  # nobody reads it, and the full queue does not mean that the model is too slow
                return
            stride = self._queue.stride
            self._queue.offer(frame)
            is_slower = self._queue.stride > stride
            self._changed.notify_all()
        if is_slower:
            self._note(
                f"{to_clock(frame.time_ms)}: the model is slower than the stream; it reads one frame in {2 * stride}"
            )


def _open(options: SourceOptions, size: FrameSize) -> VideoSource:
    return open_source(options.source, size, options.timeout_s, dict(options.ffmpeg))
