"""Contracts of the parts that only decide and have no weights: segmenter, frame selection, schedules."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from components.interfaces.records import FrameGroups, WholeVideo
from components.recorded_arguments import RecordsArguments


class SegmenterStream(Protocol):
    """A segmenter that takes one frame at a time and closes segments while the video plays."""

    def push(self, cls: Tensor) -> None:
        """Take the next frame's class vector ``[D]``."""

    def declared(self, first: int = 0) -> list[int]:
        """Last frame of every closed segment so far, ascending. It only grows; no entry ever changes.

        Args:
            first: Leave out the segments before this one. A session asks after every frame for the new ones alone.
        """


class Segmenter(RecordsArguments, ABC):
    """Cuts every video into segments. It has no state and no weights.

    Attributes:
        reads_patches: Whether ``segment`` takes the patches of the frames as a third argument, ``patches=None``.
    """

    reads_patches: bool = False

    @abstractmethod
    def segment(self, cls: Tensor, frame_counts: Tensor) -> Tensor:
        """Number the segments.

        A segmenter with ``reads_patches`` gets the encoder's patches too, ``[F, N, D]``.

        Args:
            cls: Class vectors of the packed frames on the device, ``[F, D]``.
            frame_counts: Frames of every video, ``[V]`` int64 on the host, each at least 1.

        Returns:
            Segment of every frame in its video, ``[F]`` int64 on the host: starts at 0 in every video, grows by 0 or 1.
        """

    def stream(self) -> SegmenterStream | None:
        """Start to segment one video frame by frame.

        The default is None: no boundary is known before the video has ended, so the segmenter cannot stream.
        """
        return None


class FrameResampling(RecordsArguments, ABC):
    """Decides which frames of a video are cut into segments, and how often each of them is read.

    It knows the complete video, so a model with one cannot read a video that still plays.

    Attributes:
        reads_features: Whether it needs the features of the frames.
        reads_scores: Whether it needs to know how well each frame fits the question: the model has a ``FrameScorer``
            then, and every conversation about a video may read other frames of it.
    """

    reads_features: bool = False
    reads_scores: bool = False

    @abstractmethod
    def frame_index(self, video: WholeVideo) -> Tensor:
        """Choose frames.

        Args:
            video: The video, with at least one frame.

        Returns:
            Positions in the video, ``[K]`` int64 on the host, K at least 1, never decreasing. A frame may stand
            several times.
        """


class FrameSelection(RecordsArguments, ABC):
    """Decides which frames of a segment a reader reads, and which of them it reads as one group."""

    @abstractmethod
    def select(self, lengths: Tensor) -> FrameGroups:
        """Group the frames of every segment.

        Args:
            lengths: Frames of every segment, ``[V, S]`` int64; 0 where a video has no such segment.

        Returns:
            The groups of every segment; a segment with frames has at least one.
        """


class LossSchedule(RecordsArguments, ABC):
    """Decides after which segments the language model's loss is taken, and how much each counts."""

    @abstractmethod
    def steps(self, num_segments: int) -> Sequence[int]:
        """Segments to read after; depends on S alone, so that every rank makes the same calls."""

    @abstractmethod
    def weights(self, segment_mask: Tensor) -> Tensor:
        """Weight of every reading, ``[C, R]`` float32 for the R steps of ``steps(S)``; every row sums to 1.

        Args:
            segment_mask: Which segments the media of each conversation have, ``[C, S]`` bool; a row without any True
                is a conversation without media, of which only the last reading may count.
        """


class StreamSchedule(ABC):
    """Decides which visual streams are left out of a training step, with their words in the prompt."""

    @abstractmethod
    def left_out(self, training_batch: int) -> frozenset[str]:
        """Names of the streams to leave out.

        Args:
            training_batch: Number of batches that this rank has trained on before. It is equal on all ranks, and must
                be all that the answer depends on: then all ranks leave out the same, and so does a resumed run.
        """
