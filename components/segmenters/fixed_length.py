"""Segments of a fixed number of frames: as many as the video needs."""

from torch import Tensor

from components.interfaces import Segmenter
from components.packed_frames import locate_frames
from components.segmenters.segment_streams import FixedLengthStream


class FixedLength(Segmenter):
    """Cuts every video after each ``frames`` frames; the last segment may be shorter.

    So a segment is final as soon as it is full, and streaming cuts where the offline form does.

    Args:
        frames: Frames of a segment.

    Raises:
        ValueError: ``frames`` is not positive.
    """

    def __init__(self, frames: int) -> None:
        if frames < 1:
            raise ValueError(f"FixedLength's frames must be at least 1, got {frames}")
        self.frames = frames

    def segment(self, cls: Tensor, frame_counts: Tensor) -> Tensor:
        """Number the segments.

        Args:
            cls: Class vectors of the packed frames, ``[F, D]``; only their number is used.
            frame_counts: Frames of every video, ``[V]`` int64.

        Returns:
            Segment of every frame in its video, ``[F]`` int64 on the CPU.

        Raises:
            ValueError: The counts do not sum to F.
        """
        return locate_frames(frame_counts, cls.shape[0]).position // self.frames

    def stream(self) -> FixedLengthStream:
        """Start to segment one video frame by frame."""
        return FixedLengthStream(self.frames)
