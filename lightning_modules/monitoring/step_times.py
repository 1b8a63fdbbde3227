"""Measures how long the phases of a training step take."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from components.flops.step import StepWork
from lightning_modules.monitoring.clocks import Clock

PHASES = ("waiting_for_data", "forward", "backward", "optimizer")
"""Phases of a step, in order and without gaps: a step begins when the one before ends."""


@dataclass
class Step:
    """One trained batch: time marks between its phases, and its size.

    Attributes:
        marks: End of the step before (None after a pause, which is not counted), then the end of every phase.
        sizes: Samples, conversations and frames.
        work: What the model computed for it.
        positions: Positions that the language model read, without padding; None if it does not report them.
        computed_positions: The same with padding.
    """

    marks: list[Any]
    sizes: tuple[int, int, int] = (0, 0, 0)
    work: StepWork | None = None
    positions: Tensor | None = None
    computed_positions: int = 0

    def seconds(self, clock: Clock) -> list[float]:
        """Length of every phase."""
        ends = zip(self.marks, self.marks[1:], strict=False)
        return [0.0 if start is None else clock.seconds(start, end) for start, end in ends]


@dataclass
class StepTimes:
    """Marks the phases of one batch after the other.

    Attributes:
        clock: Sets the marks.
        running: The current batch.
        ended: Finished batches that ``take`` has not returned yet.
    """

    clock: Clock
    running: Step | None = None
    ended: list[Step] = field(default_factory=list)
    _last_end: Any = None

    def begin(self) -> None:
        """A batch has been loaded."""
        self.running = Step([self._last_end, self.clock.mark()])

    def end_phase(self) -> None:
        """The next phase begins."""
        if self.running is not None:
            self.running.marks.append(self.clock.mark())

    def end(self, sizes: tuple[int, int, int]) -> None:
        """Training on the batch has ended."""
        if self.running is None:
            return
        self._last_end = self.clock.mark()
        missing = len(PHASES) - len(self.running.marks)  # without a loss there is no backward pass
        self.running.marks += [self._last_end] * (missing + 1)
        self.running.sizes = sizes
        self.ended.append(self.running)
        self.running = None

    def skip(self) -> None:
        """Do not count the time since the last batch ended: the next step begins now."""
        self._last_end = self.clock.mark()

    def pause(self) -> None:
        """Do not count the time until the next batch has been loaded."""
        self._last_end = None

    def take(self) -> list[Step]:
        """Return the batches that the device has finished; the next call returns the others."""
        done = 0
        while done < len(self.ended) and self.clock.has_passed(self.ended[done].marks[-1]):
            done += 1
        taken, self.ended = self.ended[:done], self.ended[done:]
        return taken
