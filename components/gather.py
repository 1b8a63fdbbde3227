"""From segment numbers to what the bridge reads in each recurrent step."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from components.interfaces import FrameFeatures, SegmentInput, Segments
from components.packed_frames import FrameLocations, locate_frames


class FrameSelection(ABC):
    """Decides which frames of a segment the bridge reads."""

    @abstractmethod
    def select(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Pick frames by their position in the segment.

        Args:
            lengths: Frames of every segment, ``[V, S]`` int64; 0 where a video has no such segment.

        Returns:
            Positions ``[V, S, L]`` int64, ascending, and which of them are real, ``[V, S, L]`` bool.
        """


class AllFrames(FrameSelection):
    """Every frame of a segment is read."""

    def select(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Pick all frames; see ``FrameSelection``."""
        positions = _count_up(lengths)
        return positions, positions < lengths[..., None]


class LinspaceFrames(FrameSelection):
    """At most ``max_frames`` of a segment are read, evenly spaced, its first and last among them.

    Positions between frames are rounded down.

    Args:
        max_frames: Most frames to read of a segment.

    Raises:
        ValueError: ``max_frames`` is not positive.

    Source: the VideoLLaMB code, which reads at most 8 frames a segment.
    """

    def __init__(self, max_frames: int = 8) -> None:
        if max_frames < 1:
            raise ValueError(f"LinspaceFrames' max_frames must be at least 1, got {max_frames}")
        self.max_frames = max_frames

    def select(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Pick evenly spaced frames; see ``FrameSelection``."""
        num_picked = lengths.clamp_max(self.max_frames)
        step = _count_up(num_picked)
        positions = step * (lengths - 1)[..., None] // (num_picked - 1).clamp_min(1)[..., None]
        return positions, step < num_picked[..., None]


def _count_up(counts: Tensor) -> Tensor:
    """0, 1, 2, ... up to the largest count, one row for every entry of ``counts [V, S]``."""
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
    """Find the packed frames of every segment.

    Args:
        segment_index: Segment of every frame in its video, ``[F]`` int64: starts at 0 in every video, grows by 0 or 1.
        frame_counts: Frames of every video, ``[V]`` int64.
        num_segments: Segments S to pad to; equal on every rank, for a recurrent step runs for each.
        frame_selection: Which frames of a segment to read.

    Returns:
        Frame indices and mask, ``[V, S, L]``; 0 and False beyond a segment's frames.

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
    positions, mask = frame_selection.select(lengths.view(num_videos, num_segments))
    return Segments((first_frame + positions).masked_fill(~mask, 0), mask)


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
    index = segments.frame_index[:, s]  # [V, L]
    return SegmentInput(features.patches[index], segments.frame_mask[:, s], frame_ms[index])
