"""Where the time of training steps goes."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from components.flops.step import StepWork
from lightning_modules.monitoring.clocks import Clock

PHASES = ("waiting_for_data", "forward", "backward", "optimizer")
"""What a step is split into, in order and without gaps: a step begins where the one before ended."""


@dataclass
class Step:
    """One batch of training: marks between its phases, and what it held.

    Attributes:
        marks: End of the step before (None after a pause, whose length means nothing), then the end of every phase.
        sizes: Samples, conversations and frames.
        work: What the model had to do for it.
        positions: Of the language model; None where it does not tell.
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
        clock: What marks.
        running: The batch that runs.
        ended: Those that ran and were not taken yet.
    """

    clock: Clock
    running: Step | None = None
    ended: list[Step] = field(default_factory=list)
    _last_end: Any = None

    def begin(self) -> None:
        """A batch has come."""
        self.running = Step([self._last_end, self.clock.mark()])

    def end_phase(self) -> None:
        """The next phase begins."""
        if self.running is not None:
            self.running.marks.append(self.clock.mark())

    def end(self, sizes: tuple[int, int, int]) -> None:
        """The batch is trained on."""
        if self.running is None:
            return
        self._last_end = self.clock.mark()
        missing = len(PHASES) - len(self.running.marks)  # without a loss there is no backward pass
        self.running.marks += [self._last_end] * (missing + 1)
        self.running.sizes = sizes
        self.ended.append(self.running)
        self.running = None

    def skip(self) -> None:
        """What happened since the last batch ended is no waiting: the next one begins here."""
        self._last_end = self.clock.mark()

    def pause(self) -> None:
        """Something else begins, of unknown length: what lies before the next batch is not counted."""
        self._last_end = None

    def take(self) -> list[Step]:
        """The batches that the device has finished; the others are left for the next time."""
        done = 0
        while done < len(self.ended) and self.clock.has_passed(self.ended[done].marks[-1]):
            done += 1
        taken, self.ended = self.ended[:done], self.ended[done:]
        return taken
