"""Which of the packed frames are cut into segments and read."""

from typing import NamedTuple

import torch
from torch import Tensor

from components.interfaces import FrameFeatures, FrameResampling, Segmenter, Segments, WholeVideo
from components.packed_frames import PackedVideos, locate_frames


class KnownFrames(NamedTuple):
    """What is known of all packed frames when frames are chosen; on the host."""

    features: Tensor | None = None  # [F, J or D] float32, see ``WholeVideo``
    scores: Tensor | None = None  # [R, F] float32, a row for each of ``videos``
    videos: Tensor | None = None  # [R] int64, video of every row; None: every video once


class WatchedFrames(NamedTuple):
    """The frames that are cut into segments, video after video; on the host.

    A *row* is a video; where the question decides which frames are read, it is a medium of a conversation. Some packed
    frames may be missing, such as the tiles of a picture. Others may stand several times.
    """

    frame_index: Tensor  # [W] int64 into the packed frames
    frame_counts: Tensor  # [R] int64, watched frames of every row
    frame_number: Tensor  # [W] int64, position of each in its video

    def located(self, segments: Segments) -> Segments:
        """Segments of watched frames, as segments of packed frames."""
        number = self.frame_number[segments.middle_index].masked_fill(~segments.group_mask, 0)
        index = self.frame_index[segments.frame_index].masked_fill(~segments.frame_mask, 0)
        return Segments(index, segments.frame_mask, number)


def watched_frames(
    videos: PackedVideos,
    resampling: FrameResampling | None,
    known: KnownFrames = KnownFrames(),  # noqa: B008  never changed
) -> WatchedFrames | None:
    """Find the frames that are cut into segments.

    Args:
        videos: The packed videos. Of a picture in tiles, the first frame is watched.
        resampling: Which frames of a video are watched; None for all.
        known: What it may read.

    Returns:
        The frames; None if they are all the packed frames, each once.
    """
    in_tiles = (videos.picture_sizes > 0).all(dim=1).tolist()
    if resampling is None and not any(in_tiles):
        return None
    counts = videos.frame_counts.tolist()
    starts = videos.frame_counts.cumsum(0) - videos.frame_counts
    times = None if resampling is None else videos.frame_ms.cpu()
    of_row = list(range(len(counts))) if known.videos is None else known.videos.tolist()
    own = []
    for row, video in enumerate(of_row):
        if in_tiles[video]:
            own.append(torch.zeros(1, dtype=torch.int64))
        elif resampling is None or times is None:
            own.append(torch.arange(counts[video]))
        else:
            frames = slice(int(starts[video]), int(starts[video]) + counts[video])
            own.append(resampling.frame_index(_whole_video(times[frames], known, row, frames)))
    number = torch.cat(own)
    watched = torch.tensor([len(each) for each in own])
    index = starts[torch.tensor(of_row)][locate_frames(watched, len(number)).video_index] + number
    return WatchedFrames(index, watched, number)


def _whole_video(frame_ms: Tensor, known: KnownFrames, row: int, frames: slice) -> WholeVideo:
    features = None if known.features is None else known.features[frames]
    scores = None if known.scores is None else known.scores[row, frames]
    return WholeVideo(len(frame_ms), frame_ms, features, scores)


def segments_of_frames(
    segmenter: Segmenter, features: FrameFeatures, frame_counts: Tensor, watched: WatchedFrames | None = None
) -> Tensor:
    """Cut the videos, or the frames of them that are watched.

    Args:
        segmenter: Decides where to cut.
        features: Features of the packed frames.
        frame_counts: Frames of every video, ``[V]`` int64 on the host.
        watched: Which frames are cut into segments; None for all.

    Returns:
        Segment in its video of every frame, ``[F]`` int64 on the host.
    """
    cls, patches = features.cls, features.patches if segmenter.reads_patches else None
    if watched is not None:
        index = watched.frame_index.to(cls.device, non_blocking=True)
        cls, patches = cls[index], None if patches is None else patches[index]
        frame_counts = watched.frame_counts
    if patches is None:
        return segmenter.segment(cls, frame_counts).cpu()
    return segmenter.segment(cls, frame_counts, patches).cpu()  # type: ignore[call-arg]
