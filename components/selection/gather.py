"""Gathers the frames of every segment for the bridge, from the segmenter's numbers."""

from collections.abc import Iterator

import torch
from torch import Tensor

from components.interfaces import FrameFeatures, FrameSelection, SegmentInput, Segments
from components.packed_frames import FrameLocations, count_up, locate_frames


def num_segments_of(segment_index: Tensor, frame_counts: Tensor) -> int:
    """Number of segments of the video that has the most.

    Args:
        segment_index: Segment of every frame in its video, ``[F]`` int64.
        frame_counts: Frames of every video, ``[V]`` int64.

    Returns:
        S; 0 without frames.

    Raises:
        ValueError: The counts do not sum to F.
    """
    locate_frames(frame_counts, segment_index.shape[0])
    return int(segment_index.max()) + 1 if segment_index.numel() else 0


def group_frames(
    segment_index: Tensor, frame_counts: Tensor, num_segments: int, frame_selection: FrameSelection
) -> Segments:
    """Find the packed frames of every segment's frame groups.

    Args:
        segment_index: Segment of every frame in its video, ``[F]`` int64: starts at 0 in every video, grows by 0 or 1.
        frame_counts: Frames of every video, ``[V]`` int64.
        num_segments: Segments S to pad to; equal on every rank, because every rank runs the same recurrent steps.
        frame_selection: Which frames of a segment to read.

    Returns:
        Frame indices and mask, ``[V, S, L, G]``; 0 and False beyond a segment's groups and a group's frames.

    Raises:
        ValueError: The counts do not sum to F, a video has more than S segments, or the numbers do not count up as a
            segmenter's must: frames would be read in the wrong segment.
    """
    frame_counts = frame_counts.to(segment_index.device)
    locations = locate_frames(frame_counts, segment_index.shape[0])
    _check_segment_index(segment_index, locations, num_segments)
    num_videos = frame_counts.shape[0]
    row = locations.video_index * num_segments + segment_index
    lengths = torch.bincount(row, minlength=num_videos * num_segments)
    first_frame = (lengths.cumsum(0) - lengths).view(num_videos, num_segments, 1)
    groups = frame_selection.select(lengths.view(num_videos, num_segments))
    step = count_up(groups.num_frames)  # [V, S, L, G]
    mask = step < groups.num_frames[..., None]
    index = (first_frame + groups.first)[..., None] + step
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
    is_valid = torch.where(is_first, segment_index == 0, (grown == 0) | (grown == 1))
    if not bool(is_valid.all()):
        frame = int((~is_valid).nonzero()[0])
        raise ValueError(
            f"segment numbers must start at 0 in every video and grow by 0 or 1, but packed frame {frame} (frame "
            f"{int(locations.position[frame])} of video {int(locations.video_index[frame])}) has "
            f"{int(segment_index[frame])}: the segmenter is at fault"
        )


def segment_inputs(features: FrameFeatures, frame_ms: Tensor, segments: Segments) -> Iterator[SegmentInput]:
    """Gather what the bridge reads, one recurrent step after the other.

    Each step is padded to its own longest segment, not to the longest of all steps: one long scene would otherwise pad
    every other segment to its length.

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
    """Gather the frames that the bridge reads in recurrent step ``s``.

    Args:
        features: Features of the packed frames.
        frame_ms: Time of every frame in its video, ``[F]`` int64 milliseconds.
        segments: The frames of every segment.
        s: The step.

    Returns:
        Segment ``s`` of every video; masked entries hold the values of frame 0, which mean nothing.
    """
    index, mask = segments.frame_index[:, s], segments.frame_mask[:, s]  # [V, L, G]
    num_frames = mask.sum(dim=2)  # [V, L]
    middle = (num_frames.clamp(min=1) - 1) // 2
    middle_index = index.gather(2, middle[..., None]).squeeze(2)
    return SegmentInput(_group_means(features.patches, index, mask), num_frames > 0, frame_ms[middle_index])


def _group_means(patches: Tensor, index: Tensor, mask: Tensor) -> Tensor:
    """Mean of the frames of every group, ``[V, L, N, D]``, from patches ``[F, N, D]`` and indices ``[V, L, G]``."""
    if index.shape[2] == 1:
        return patches[index.squeeze(2)]
    share = mask / mask.sum(dim=2, keepdim=True).clamp(min=1)  # [V, L, G]
    return torch.einsum("vlgnd,vlg->vlnd", patches[index], share.to(patches.dtype))
