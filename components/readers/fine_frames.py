"""A reader that shows a few frames, evenly spread over the video so far, with all their patches."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from components.checkpoints.part_weights import load_part_weights
from components.interfaces import Questions, SegmentInput, VisualTokens
from components.readers.frame_reader import FrameProjection, FrameReader, FrameRun
from components.sharding import SkipsUnusedCompute

_MOST_DOUBLINGS = 40  # of the distance between stored frames: more than any video needs


class StoredFrames(NamedTuple):
    """The frame groups that are stored after some segments."""

    runs: tuple[FrameRun, ...]  # one after the other; may hold groups that are no longer stored
    num_read: Tensor  # [V] int64, frame groups that were read so far


class FineFrames(FrameReader[StoredFrames], SkipsUnusedCompute):
    """Stores evenly spaced frames of a video and shows at most ``num_frames`` of them.

    Every frame is stored until there are ``capacity`` of them; from then on every second, then every fourth, and so on.
    Which frames are stored depends on the number of frames so far alone, not on the cuts between segments. So the
    memory is bounded, and a streamed video gives the same frames as a stored one. Of the stored frames ``read`` shows
    those at ``round(linspace(0, stored - 1, num_frames))``, halves rounded to even; all of them if there are fewer.
    Where the frame selection averages frames, a group counts as one frame.

    A video shows ``num_frames`` frames at any length if ``capacity`` is at least twice as many.

    Args:
        dim: Width D of a patch.
        out_dim: Language model width E.
        num_frames: Most frames that the language model sees of a video.
        capacity: Most frames that are stored of a video.
        projection: ``mlp``: normalise the patches and map them through two layers to E. ``none``: show them as they
            are, where a projector of the model has already given them width E.
        frame_positions: Add a sinusoidal code of each frame's number in its video to its patches, before they are
            projected.
        type_embedding: Add a learned vector to all visual tokens, so that the language model knows them from those of
            another reader.
        weights: Safetensors file with trained weights, under the names of this class.

    Raises:
        ValueError: There is no frame to show, ``capacity`` is smaller than ``num_frames``, ``projection`` is neither
            of the two, patches that are not projected do not have width E, D is odd but frames have positions, or
            ``weights`` does not fit.
        FileNotFoundError: There is no such file.

    Source: the fine frames of the Memory-Augmented VLM code, which chooses among all frames of a complete video; the
    bounded store is ours.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        num_frames: int = 32,
        capacity: int = 512,
        projection: FrameProjection = "mlp",
        frame_positions: bool = False,
        type_embedding: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__(
            dim, out_dim, projection=projection, frame_positions=frame_positions, type_embedding=type_embedding
        )
        if not 1 <= num_frames <= capacity:
            raise ValueError(
                f"num_frames must be at least 1 and capacity at least num_frames, got {num_frames} and {capacity}"
            )
        self.num_frames = num_frames
        self.capacity = capacity
        if weights is not None:
            load_part_weights(self, Path(weights), "the reader's weights")

    def forward(self, segment: SegmentInput, state: StoredFrames | None) -> StoredFrames:
        """Store the frames of one segment of every video; see ``VisualReader.forward``."""
        num_before = segment.frame_mask.new_zeros(len(segment.tokens), dtype=torch.int64)
        runs: tuple[FrameRun, ...] = ()
        if state is not None:
            runs, num_before = state
        new = FrameRun.of_segment(segment, segment.grid(self), num_before)
        stored = StoredFrames((*runs, new), num_before + segment.frame_mask.sum(dim=1))
        if segment.tokens.requires_grad and not self.may_skip_unused_compute:
            # A strategy that gathers weights counts the tensors of a state that get a gradient. When they are copied
            # depends on the lengths of a rank's videos, so all ranks copy them in every step.
            stored = stored._replace(runs=(_joined(stored),))
        # Rarely, because it copies: so that reading a video takes a time and a memory in proportion to its frames.
        return self.prune(stored) if _num_slots(stored) >= 2 * self.capacity else stored

    def read(
        self, state: StoredFrames, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Project the chosen frames: ``[V, num_frames * N, E]``, fewer if no video has so many."""
        stride = self._stride(state.num_read)
        num_stored = _divided_up(state.num_read, stride)
        place = torch.arange(min(self.num_frames, _num_slots(state)), device=stride.device)
        num_shown = num_stored.clamp(max=self.num_frames)
        chosen = _spread(place, num_stored[:, None], num_shown[:, None])
        wanted = (chosen * stride[:, None]).masked_fill(place >= num_shown[:, None], -1)
        return self.shown(_taken(state, wanted))

    def written(self, segment: SegmentInput, state: StoredFrames) -> VisualTokens:
        """Project the frames of the segment that are stored; see ``VisualReader.written``."""
        num_before = state.num_read - segment.frame_mask.sum(dim=1)
        frames = FrameRun.of_segment(segment, segment.grid(self), num_before)
        is_stored = frames.order % self._stride(state.num_read)[:, None] == 0
        return self.shown(frames._replace(order=frames.order.masked_fill(~is_stored, -1)))

    def prune(self, state: StoredFrames) -> StoredFrames:
        """Forget the frames that are no longer stored: at most ``capacity`` are left."""
        if _num_slots(state) <= self.capacity:
            return state
        stride = self._stride(state.num_read)
        slots = torch.arange(self.capacity, device=stride.device)
        wanted = slots * stride[:, None]
        wanted = wanted.masked_fill(wanted >= state.num_read[:, None], -1)
        return state._replace(runs=(_taken(state, wanted),))

    def _stride(self, num_read: Tensor) -> Tensor:
        """Distance between stored frames, ``[V]``: the smallest power of two with which ``capacity`` are enough."""
        powers = 2 ** torch.arange(_MOST_DOUBLINGS, device=num_read.device)
        too_small = powers < _divided_up(num_read, self.capacity)[:, None]
        return powers[too_small.sum(dim=1)]


def _taken(state: StoredFrames, wanted: Tensor) -> FrameRun:
    """The frame groups with these numbers in the order of reading, ``[V, L]``; -1 for none."""
    joined = _joined(state)
    slots = (wanted[:, :, None] == joined.order[:, None]).int().argmax(dim=2)  # [V, L]; any group where none is wanted
    return joined.taken(slots, wanted)


def _joined(state: StoredFrames) -> FrameRun:
    """All frame groups as one run."""
    return FrameRun(*(torch.cat(field, dim=1) for field in zip(*state.runs, strict=True)))


def _num_slots(state: StoredFrames) -> int:
    return sum(run.order.shape[1] for run in state.runs)


def _divided_up(number: Tensor, divisor: Tensor | int) -> Tensor:
    """The quotient, rounded up."""
    return (number + divisor - 1).div(divisor, rounding_mode="floor")


def _spread(place: Tensor, num_stored: Tensor, num_shown: Tensor) -> Tensor:
    """Entry ``place`` of ``round(linspace(0, num_stored - 1, num_shown))``, halves to even; exact, in integers."""
    steps = (num_shown - 1).clamp(min=1)
    total = place * (num_stored - 1)
    below = total.div(steps, rounding_mode="floor")
    twice_the_rest = 2 * (total - below * steps)
    is_up = (twice_the_rest > steps) | ((twice_the_rest == steps) & (below % 2 == 1))
    return below + is_up
