"""From segment numbers to what the bridge reads in each recurrent step."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from components.interfaces import FrameFeatures, SegmentInput, Segments
from components.packed_frames import FrameLocations, locate_frames


class Slots(NamedTuple):
    """What the bridge reads of every segment: neighbouring frames, averaged."""

    first: Tensor  # [V, S, L] int64, position in its segment of each slot's first frame, ascending
    num_frames: Tensor  # [V, S, L] int64, frames of each slot; 0 where a segment has fewer slots than L


class FrameSelection(ABC):
    """Decides which frames of a segment the bridge reads, and which of them as one."""

    @abstractmethod
    def select(self, lengths: Tensor) -> Slots:
        """Share a segment's frames out over slots.

        Args:
            lengths: Frames of every segment, ``[V, S]`` int64; 0 where a video has no such segment.

        Returns:
            The slots of every segment; a segment with frames has at least one.
        """


class AllFrames(FrameSelection):
    """Every frame of a segment is read by itself."""

    def select(self, lengths: Tensor) -> Slots:
        """One slot a frame; see ``FrameSelection``."""
        positions = _count_up(lengths)
        return Slots(positions, (positions < lengths[..., None]).long())


class LinspaceFrames(FrameSelection):
    """At most ``max_frames`` of a segment are read, evenly spaced, its first and last among them; the rest is unseen.

    Positions between frames are rounded down.

    Args:
        max_frames: Most frames to read of a segment.

    Raises:
        ValueError: ``max_frames`` is not positive.

    Source: the VideoLLaMB code, which reads at most 8 frames a segment.
    """

    def __init__(self, max_frames: int = 8) -> None:
        self.max_frames = _at_least_one(self, max_frames)

    def select(self, lengths: Tensor) -> Slots:
        """One slot a chosen frame; see ``FrameSelection``."""
        num_picked = lengths.clamp_max(self.max_frames)
        step = _count_up(num_picked)
        positions = step * (lengths - 1)[..., None] // (num_picked - 1).clamp_min(1)[..., None]
        return Slots(positions, (step < num_picked[..., None]).long())


class PooledFrames(FrameSelection):
    """Every frame counts, at the cost of at most ``max_frames``: a longer segment is cut into that many equal slices.

    The bridge reads each slice's mean. Slices differ by at most one frame; a segment of at most ``max_frames`` frames
    is read frame by frame.

    Args:
        max_frames: Most slices, which the bridge reads like frames.

    Raises:
        ValueError: ``max_frames`` is not positive.
    """

    def __init__(self, max_frames: int = 8) -> None:
        self.max_frames = _at_least_one(self, max_frames)

    def select(self, lengths: Tensor) -> Slots:
        """One slot a slice; see ``FrameSelection``."""
        num_slices = lengths.clamp_max(self.max_frames)[..., None]
        slice_index = _count_up(num_slices.squeeze(-1))
        first = slice_index * lengths[..., None] // num_slices.clamp_min(1)
        end = (slice_index + 1) * lengths[..., None] // num_slices.clamp_min(1)
        return Slots(first, (end - first) * (slice_index < num_slices))


def _at_least_one(part: FrameSelection, max_frames: int) -> int:
    if max_frames < 1:
        raise ValueError(f"{type(part).__name__}' max_frames must be at least 1, got {max_frames}")
    return max_frames


def _count_up(counts: Tensor) -> Tensor:
    """0, 1, 2, ... up to the largest count, one row for every entry of ``counts``."""
    longest = int(counts.max()) if counts.numel() else 0
    return torch.arange(longest, device=counts.device).expand(*counts.shape, longest)


def num_segments_of(segment_index: Tensor, frame_counts: Tensor) -> int:
    """Segments of the video that has the most.

    Args:
        segment_index: Segment of every frame in its video, ``[F]`` int64.
        frame_counts: Frames of every video, ``[V]`` int64.

    Returns:
        The number S that holds every video's segments; 0 without frames.

    Raises:
        ValueError: The counts do not sum to F.
    """
    locate_frames(frame_counts, segment_index.shape[0])
    return int(segment_index.max()) + 1 if segment_index.numel() else 0


def group_frames(
    segment_index: Tensor, frame_counts: Tensor, num_segments: int, frame_selection: FrameSelection
) -> Segments:
    """Find the packed frames of every segment's slots.

    Args:
        segment_index: Segment of every frame in its video, ``[F]`` int64: starts at 0 in every video, grows by 0 or 1.
        frame_counts: Frames of every video, ``[V]`` int64.
        num_segments: Segments S to pad to; equal on every rank, for a recurrent step runs for each.
        frame_selection: Which frames of a segment to read.

    Returns:
        Frame indices and mask, ``[V, S, L, G]``; 0 and False beyond a segment's slots and a slot's frames.

    Raises:
        ValueError: The counts do not sum to F, a video has more than S segments, or the numbers do not count up as a
            segmenter's must; frames would silently land in the wrong segment.
    """
    frame_counts = frame_counts.to(segment_index.device)
    locations = locate_frames(frame_counts, segment_index.shape[0])
    _check_segment_index(segment_index, locations, num_segments)
    num_videos = frame_counts.shape[0]
    row = locations.video_index * num_segments + segment_index
    lengths = torch.bincount(row, minlength=num_videos * num_segments)
    first_frame = (lengths.cumsum(0) - lengths).view(num_videos, num_segments, 1)
    slots = frame_selection.select(lengths.view(num_videos, num_segments))
    step = _count_up(slots.num_frames)  # [V, S, L, G]
    mask = step < slots.num_frames[..., None]
    index = (first_frame + slots.first)[..., None] + step
    return Segments(index.masked_fill(~mask, 0), mask)


def _check_segment_index(segment_index: Tensor, locations: FrameLocations, num_segments: int) -> None:
    if segment_index.numel() == 0:
        return
    most = int(segment_index.max()) + 1
    if most > num_segments:
        raise ValueError(
            f"a video was cut into {most} segments, but num_segments is {num_segments}: raise num_segments, "
            "or let the segmenter make fewer"
        )
    is_first = locations.position == 0
    grown = segment_index - segment_index.roll(1)
    is_sound = torch.where(is_first, segment_index == 0, (grown == 0) | (grown == 1))
    if not bool(is_sound.all()):
        frame = int((~is_sound).nonzero()[0])
        raise ValueError(
            f"segment numbers must start at 0 in every video and grow by 0 or 1, but packed frame {frame} (frame "
            f"{int(locations.position[frame])} of video {int(locations.video_index[frame])}) has "
            f"{int(segment_index[frame])}: the segmenter is at fault"
        )


def segment_inputs(features: FrameFeatures, frame_ms: Tensor, segments: Segments) -> Iterator[SegmentInput]:
    """Gather what the bridge reads, one recurrent step after the other.

    Each step is as long as the longest segment that it reads, not as the longest of all steps: one long scene would
    otherwise pad every other segment to its length.

    Args:
        features: Features of the packed frames.
        frame_ms: Time of every frame in its video, ``[F]`` int64 milliseconds.
        segments: The frames of every segment.

    Yields:
        Segment ``s`` of every video, for all S steps; see ``select_segment``.
    """
    num_segments, longest = segments.frame_mask.shape[1:3]
    is_used = segments.frame_mask.any(dim=0).reshape(num_segments, longest, -1).any(dim=2)  # [S, L]
    ends = is_used * torch.arange(1, longest + 1, device=is_used.device)
    for step, length in enumerate(ends.amax(dim=1).tolist()):  # asks the device once
        shortened = Segments(*(each[:, :, : max(1, length)] for each in segments))
        yield select_segment(features, frame_ms, shortened, step)


def select_segment(features: FrameFeatures, frame_ms: Tensor, segments: Segments, s: int) -> SegmentInput:
    """Gather what the bridge reads in recurrent step ``s``.

    Args:
        features: Features of the packed frames.
        frame_ms: Time of every frame in its video, ``[F]`` int64 milliseconds.
        segments: The frames of every segment.
        s: The step.

    Returns:
        Segment ``s`` of every video; where masked, the content is frame 0's and means nothing.
    """
    index, mask = segments.frame_index[:, s], segments.frame_mask[:, s]  # [V, L, G]
    num_frames = mask.sum(dim=2)  # [V, L]
    middle = (num_frames.clamp(min=1) - 1) // 2
    middle_index = index.gather(2, middle[..., None]).squeeze(2)
    return SegmentInput(_slot_means(features.patches, index, mask), num_frames > 0, frame_ms[middle_index])


def _slot_means(patches: Tensor, index: Tensor, mask: Tensor) -> Tensor:
    """Mean of the frames of every slot, ``[V, L, N, D]``, from patches ``[F, N, D]`` and indices ``[V, L, G]``."""
    if index.shape[2] == 1:
        return patches[index.squeeze(2)]
    share = mask / mask.sum(dim=2, keepdim=True).clamp(min=1)  # [V, L, G]
    return torch.einsum("vlgnd,vlg->vlnd", patches[index], share.to(patches.dtype))
