"""Times of a stream's frames from the start of the video, and which frames are sampled."""

_JUMP_BACK_MS = 1000.0
_JUMP_FORTH_MS = 10_000.0


class StreamClock:
    """Turns the times of a stream into times since its first frame, which never decrease.

    Streams may start at any time, and their first frames may have none. A sender that starts again, or files that were
    put together, make the time jump. After a jump time goes on from the last frame.

    Args:
        period_ms: Time from one frame to the next where a frame has no time.
        follows_wall_clock: Whether frames arrive as they happen, so that a long gap in their times without one on the
            clock of this machine is a jump.
    """

    def __init__(self, period_ms: float, *, follows_wall_clock: bool) -> None:
        self._period_ms = period_ms
        self._follows_wall_clock = follows_wall_clock
        self._start_ms: float | None = None  # the stream's time at 0 of the video
        self._last_ms: float | None = None  # of the video
        self._arrived_ms = 0.0
        self.num_jumps = 0

    def time_of(self, stream_ms: float | None, arrived_ms: float) -> float:
        """Time of the next frame since the first one, in milliseconds.

        Args:
            stream_ms: Its time in the stream; None if it has none.
            arrived_ms: When it arrived, on a clock of this machine.
        """
        elapsed_ms = arrived_ms - self._arrived_ms
        self._arrived_ms = arrived_ms
        expected = 0.0 if self._last_ms is None else self._last_ms + self._period_ms
        time_ms = expected
        if stream_ms is not None:
            if self._start_ms is None:
                self._start_ms = stream_ms - expected
            time_ms = stream_ms - self._start_ms
            if self._is_jump(time_ms, elapsed_ms):
                self.num_jumps += 1
                self._start_ms = stream_ms - expected
                time_ms = expected
        self._last_ms = time_ms if self._last_ms is None else max(time_ms, self._last_ms)
        return self._last_ms

    def _is_jump(self, time_ms: float, elapsed_ms: float) -> bool:
        if self._last_ms is None:
            return False
        step_ms = time_ms - self._last_ms
        return step_ms < -_JUMP_BACK_MS or (self._follows_wall_clock and step_ms > elapsed_ms + _JUMP_FORTH_MS)


class EvenTimes:
    """Chooses frames at even times: the first frame at or after each multiple of the period.

    Args:
        fps: Frames per second to choose.
    """

    def __init__(self, fps: float) -> None:
        self._period_ms = 1000 / fps
        self._due_ms = 0.0

    def is_due(self, time_ms: float) -> bool:
        """Whether the next frame is chosen; its time does not decrease."""
        if time_ms + 1 < self._due_ms:  # containers round times to milliseconds
            return False
        self._due_ms = ((time_ms + 1) // self._period_ms + 1) * self._period_ms
        return True
