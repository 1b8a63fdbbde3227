"""The same number of equal segments for every video: the ablation that ignores what the video shows."""

from torch import Tensor

from components.interfaces import Segmenter
from components.packed_frames import locate_frames


class Uniform(Segmenter):
    """Cuts every video into the same number of segments, as equal as they can be.

    Lengths differ by at most one frame. A video with fewer frames than segments gets one segment a frame. Every
    boundary depends on the length of the video, so it cannot stream.

    Args:
        num_segments: Segments per video.

    Raises:
        ValueError: ``num_segments`` is not positive.
    """

    def __init__(self, num_segments: int) -> None:
        if num_segments < 1:
            raise ValueError(f"Uniform's num_segments must be at least 1, got {num_segments}")
        self.num_segments = num_segments

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
        video_index, position = locate_frames(frame_counts, cls.shape[0])
        length = frame_counts.cpu()[video_index]
        return position * length.clamp_max(self.num_segments) // length
