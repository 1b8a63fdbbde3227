"""Gathers the frames of every segment for a reader, from the segmenter's numbers.

Which frames these are is computed on the host; only the features are gathered on their device.
"""

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
    segment_index: Tensor,
    frame_counts: Tensor,
    num_segments: int,
    frame_selection: FrameSelection,
    frames_before: int = 0,
) -> Segments:
    """Find the packed frames of every segment's frame groups.

    Args:
        segment_index: Segment of every frame in its video, ``[F]`` int64: starts at 0 in every video, grows by 0 or 1.
        frame_counts: Frames of every video, ``[V]`` int64.
        num_segments: Segments S to pad to; equal on every rank, because every rank runs the same recurrent steps.
        frame_selection: Which frames of a segment to read.
        frames_before: Frames of the video before these, where they are the next part of one.

    Returns:
        Frame indices and mask, ``[V, S, L, G]``; 0 and False beyond a segment's groups and a group's frames.

    Raises:
        ValueError: The counts do not sum to F, a video has more than S segments, or the numbers do not count up as a
            segmenter's must: frames would be read in the wrong segment.
    """
    segment_index, frame_counts = segment_index.cpu(), frame_counts.cpu()
    locations = locate_frames(frame_counts, segment_index.shape[0])
    _check_segment_index(segment_index, locations, num_segments)
    num_videos = frame_counts.shape[0]
    row = locations.video_index * num_segments + segment_index
    lengths = torch.bincount(row, minlength=num_videos * num_segments)
    first_frame = (lengths.cumsum(0) - lengths).view(num_videos, num_segments, 1)
    groups = frame_selection.select(lengths.view(num_videos, num_segments))
    step = count_up(groups.num_frames)  # [V, S, L, G]
    mask = step < groups.num_frames[..., None]
    index = ((first_frame + groups.first)[..., None] + step).masked_fill(~mask, 0)
    segments = Segments(index, mask, index.new_zeros(mask.shape[:3]))
    number = segments.middle_index - first_frame[:, :1] + frames_before
    return segments._replace(frame_number=number.masked_fill(~segments.group_mask, 0))


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
    """Gather what a reader reads, one recurrent step after the other.

    Each step is padded to its own longest segment, not to the longest of all steps: one long scene would otherwise pad
    every other segment to its length.

    Args:
        features: Features of the packed frames.
        frame_ms: Time of every frame in its video, ``[F]`` int64 milliseconds.
        segments: The frames of every segment.

    Yields:
        Segment ``s`` of every video, for all S steps, as full grids. Masked entries hold the values of frame 0, which
        mean nothing.
    """
    num_segments, longest = segments.frame_mask.shape[1:3]
    has_group = segments.group_mask  # [V, S, L]
    is_used = has_group.any(dim=0)  # [S, L]
    ends = (is_used * torch.arange(1, longest + 1)).amax(dim=1).clamp(min=1).tolist()
    device = features.patches.device
    middle_index = segments.middle_index.to(device, non_blocking=True)
    index, mask, number = (field.to(device, non_blocking=True) for field in segments)
    for step in range(num_segments):
        chosen = (slice(None), step, slice(ends[step]))
        saliency = None
        if features.saliency is not None:
            saliency = _group_means(features.saliency[..., None], index[chosen], mask[chosen]).flatten(1)
        yield SegmentInput(
            tokens=_group_means(features.patches, index[chosen], mask[chosen]).flatten(1, 2),
            frame_mask=mask[chosen].any(dim=2),
            frame_ms=frame_ms[middle_index[chosen]],
            frame_number=number[chosen],
            num_cells=features.patches.shape[1],
            saliency=saliency,
            is_in_all=bool(has_group[:, step].any(dim=1).all()),
            is_full=bool(has_group[:, step, : ends[step]].all()),
        )


def _group_means(patches: Tensor, index: Tensor, mask: Tensor) -> Tensor:
    """Mean of the frames of every group, ``[V, L, N, D]``, from patches ``[F, N, D]`` and indices ``[V, L, G]``."""
    if index.shape[2] == 1:
        return patches[index.squeeze(2)]
    share = mask / mask.sum(dim=2, keepdim=True).clamp(min=1)  # [V, L, G]
    return torch.einsum("vlgnd,vlg->vlnd", patches[index], share.to(patches.dtype))
