"""Frames that wait for a model; of a full queue every second frame is dropped."""

from collections import deque
from typing import NamedTuple

from torch import Tensor


class LiveFrame(NamedTuple):
    """A frame of a video that plays."""

    pixels: Tensor  # uint8 [3, size, size], as the encoder reads it
    time_ms: int  # since the first frame


class FrameQueue:
    """A bounded queue. Frames that are dropped are dropped evenly.

    Frames are numbered as they are offered. While the model is fast enough, every frame enters. When the queue is full,
    the *stride* doubles: only frames whose number is a multiple of it stay and enter. When the model has emptied the
    queue, the stride halves. So frames that wait always have equal distances.

    Args:
        capacity: Most frames that wait.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._waiting: deque[tuple[int, LiveFrame]] = deque()
        self.stride = 1
        self.num_offered = 0
        self.num_dropped = 0

    @property
    def waiting(self) -> list[int]:
        """Numbers of the frames that wait."""
        return [number for number, _ in self._waiting]

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether the next frame makes the queue drop some."""
        return len(self._waiting) >= self._capacity

    def offer(self, frame: LiveFrame) -> None:
        """Take the next frame, or drop it."""
        number = self.num_offered
        self.num_offered += 1
        if number % self.stride == 0 and self.is_full:
            self.stride *= 2
            remaining = [each for each in self._waiting if each[0] % self.stride == 0]
            self.num_dropped += len(self._waiting) - len(remaining)
            self._waiting = deque(remaining)
        if number % self.stride == 0:
            self._waiting.append((number, frame))
        else:
            self.num_dropped += 1

    def take(self, most: int) -> list[LiveFrame]:
        """Remove and return the oldest frames, at most so many."""
        taken = [self._waiting.popleft()[1] for _ in range(min(most, len(self._waiting)))]
        if not self._waiting and self.stride > 1:
            self.stride //= 2
        return taken
