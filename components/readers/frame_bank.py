"""What frame banks share: they store at most so many whole frames of a video and show all of them."""

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from components.interfaces import Questions, SegmentInput, VisualTokens
from components.readers.frame_reader import FrameProjection, FrameReader, FrameRun


class HeldFrames(NamedTuple):
    """Frames of every video in the order in which they were read, each with a number that the bank needs."""

    frames: FrameRun
    score: Tensor  # [V, L] float32, such as how new each frame was

    def with_frames(self, later: FrameRun, score: Tensor) -> "HeldFrames":
        """These frames and later ones, whose scores are ``[V, L]``."""
        return HeldFrames(self.frames.with_frames(later), torch.cat([self.score, score], dim=1))

    def of_slots(self, is_held: Tensor, most: int) -> "HeldFrames":
        """The frames where ``is_held [V, L]``, in at most ``most`` slots; slots without a frame are last."""
        slots = (~is_held).int().argsort(dim=1, stable=True)[:, :most]
        order = self.frames.order.masked_fill(~is_held, -1).gather(1, slots)
        return HeldFrames(self.frames.taken(slots, order), self.score.gather(1, slots))

    def of_highest_scores(self, most: int) -> "HeldFrames":
        """The ``most`` frames of the highest scores; of equal ones the earlier."""
        is_real = self.frames.order >= 0
        best = self.score.masked_fill(~is_real, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :most]
        return self.of_slots(torch.zeros_like(is_real).scatter(1, best, True) & is_real, most)


class FrameBankState(NamedTuple):
    """What a bank holds after some segments."""

    held: HeldFrames  # at most num_frames slots
    num_read: Tensor  # [V] int64, frame groups that were read so far


class FrameBank(FrameReader[FrameBankState]):
    """A store of at most ``num_frames`` whole frames. A subclass decides which ones it holds.

    Frames enter one by one, so the cuts between segments change nothing. Where the frame selection averages frames, a
    group counts as one frame. Every segment copies the stored frames, also where none changes: the ranks of a run then
    have equal graphs.

    Args:
        dim: Width D of a patch.
        out_dim: Language model width E.
        num_frames: Most frames that are stored and shown.
        projection: ``mlp`` or ``none``, see ``FrameReader``.
        frame_positions: Whether patches get a code of their frame's number, see ``FrameReader``.

    Raises:
        ValueError: There is no frame to store, or ``FrameReader`` refuses the widths.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        num_frames: int = 8,
        projection: FrameProjection = "mlp",
        frame_positions: bool = False,
    ) -> None:
        super().__init__(dim, out_dim, projection=projection, frame_positions=frame_positions, type_embedding=False)
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {num_frames}")
        self.num_frames = num_frames

    @abstractmethod
    def held_after(self, held: HeldFrames | None, new: FrameRun) -> HeldFrames:
        """Which frames are held after some more.

        Args:
            held: The frames before; None at the start.
            new: The frames of a segment; ``order`` is -1 at padding.

        Returns:
            At most ``num_frames`` slots.
        """

    def forward(self, segment: SegmentInput, state: FrameBankState | None) -> FrameBankState:
        """Read one segment of every video; see ``VisualReader.forward``."""
        if state is None:
            held, num_read = None, segment.frame_mask.new_zeros(len(segment.tokens), dtype=torch.int64)
        else:
            held, num_read = state
        new = FrameRun.of_segment(segment, segment.grid(self), num_read)
        return FrameBankState(self.held_after(held, new), num_read + segment.frame_mask.sum(dim=1))

    def read(
        self, state: FrameBankState, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Show all frames that are held: ``[V, num_frames * N, E]``, fewer while no video has had so many."""
        return self.shown(state.held.frames)


class FrameChoice(FrameBank):
    """A bank that holds some of the frames as they are."""

    def written(self, segment: SegmentInput, state: FrameBankState) -> VisualTokens:
        """Show the frames of the segment that are held after it; see ``VisualReader.written``."""
        num_before = state.num_read - segment.frame_mask.sum(dim=1)
        frames = FrameRun.of_segment(segment, segment.grid(self), num_before)
        is_held = (frames.order[:, :, None] == state.held.frames.order[:, None]).any(dim=2)
        return self.shown(frames._replace(order=frames.order.masked_fill(~is_held, -1)))


def with_scores(held: HeldFrames | None, new: FrameRun, score: Tensor) -> HeldFrames:
    """All frames: those that are held, and new ones with their scores ``[V, L]``."""
    return HeldFrames(new, score) if held is None else held.with_frames(new, score)
