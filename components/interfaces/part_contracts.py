"""Contracts of the parts that are modules, from the encoder to the readers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from torch import Tensor, nn

from components.interfaces.records import (
    BridgeDiagnostics,
    FrameFeatures,
    Questions,
    SegmentInput,
    VisualTokens,
)
from components.recorded_arguments import RecordsArguments


class FrameEncoder(RecordsArguments, nn.Module, ABC):
    """Turns every frame into one class vector and N patch vectors.

    An encoder of pixels is easier to write on ``components.encoders.pixel_encoder.PixelEncoder``, which divides the
    frames into chunks and keeps the calls of all ranks equal.

    Attributes:
        dim: Vision width D.
        num_patches: Patches of a frame, N.
        window_frames: Frames attend to each other within windows of this many, counted from their video's start. 1:
            every frame is encoded by itself. None: all frames of a video attend to each other, so it cannot be encoded
            while it plays.
        gives_saliency: Whether its features have the saliency of patches.
        joint_dim: Width J of its features' joint embedding; 0 if they have none.
        weight_reading_methods: Methods besides ``forward`` that call submodules or read weights: a strategy that shards
            gathers the weights for them.
    """

    dim: int
    num_patches: int
    window_frames: int | None = 1
    gives_saliency: bool = False
    joint_dim: int = 0
    weight_reading_methods: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, frames: Tensor, frame_counts: Tensor) -> FrameFeatures:
        """Encode the F packed frames in one call.

        Args:
            frames: uint8 ``[F, 3, H, W]`` (``CachedFeatures`` reads ``[F, rows, width]``). F may be 0.
            frame_counts: Frames of every video, ``[V]``; only encoders that attend across frames use it.
        """

    @abstractmethod
    def dummy_frames(self, device: object) -> Tensor:
        """One all-zero frame as ``forward`` reads it.

        A batch without video runs it, masked, so that every rank makes the same calls.
        """


class FrameScorer(RecordsArguments, nn.Module, ABC):
    """Tells how well every frame fits a question. A ``FrameResampling`` chooses frames by it.

    Attributes:
        joint_dim: Width J of the joint embedding that it reads.
    """

    joint_dim: int

    @abstractmethod
    def forward(self, joint: Tensor, questions: Sequence[str]) -> Tensor:
        """Score all packed frames for every question.

        Args:
            joint: Joint embedding of every frame, ``[F, J]``, see ``FrameFeatures``.
            questions: The words of C questions, at least one.

        Returns:
            ``[C, F]`` float32, higher for a frame that fits better.
        """


class Projector(RecordsArguments, nn.Module, ABC):
    """Maps every patch to another width, before pooling. Built as ``Projector(dim, out_dim, *, options)``.

    Attributes:
        out_dim: Width of a projected patch.
    """

    out_dim: int

    @abstractmethod
    def forward(self, patches: Tensor) -> Tensor:
        """Project the patches of the packed frames: ``[F, N, D]`` to ``[F, N, out_dim]``."""


class PatchPooling(RecordsArguments, nn.Module, ABC):
    """Turns the patches of every frame into fewer patches. Built as ``Pooling(dim, *, options)``.

    Attributes:
        out_dim: Width of a pooled patch.
    """

    out_dim: int

    @abstractmethod
    def forward(self, patches: Tensor) -> Tensor:
        """Pool every frame separately.

        Args:
            patches: Patches of a square grid in row-major order, ``[F, N, D]``.

        Returns:
            Patches of a smaller square grid in row-major order, ``[F, N', out_dim]``.

        Raises:
            ValueError: N is no square number, or the grid does not fit the pooling.
        """


class PictureLayout(RecordsArguments, nn.Module, ABC):
    """Arranges what the language model sees of a picture that was cut into tiles. Built as ``Layout(dim, *, options)``.

    The data shows such a picture as several frames: the whole picture, then its tiles. The readers read the first one
    only, and what they give of it is replaced. A layout has no weights: it is called once a picture, and ranks with
    unequal numbers of pictures must gather sharded weights equally often.
    """

    @abstractmethod
    def forward(self, patches: Tensor, size: tuple[int, int], newline: Tensor) -> Tensor:
        """Arrange the patches of one picture.

        Args:
            patches: Projected patches, not pooled, of the whole picture and its tiles, ``[T, N, E]``.
            size: Height and width of the picture before it was cut.
            newline: The learned vector that ends a line, ``[E]``.

        Returns:
            ``[Q, E]``.
        """


StateT = TypeVar("StateT")


class SegmentReducer(RecordsArguments, nn.Module, ABC, Generic[StateT]):
    """Leaves fewer tokens of a segment before a reader reads them. Built as ``Reducer(dim, *, options)``.

    It is called once a recurrent step, as the reader is, and carries a state of its own. So a streamed video gives the
    same tokens as a stored one.

    Attributes:
        out_dim: Width of the tokens that it gives.
        gives_grid: Whether it gives a full grid again, which every reader can read.
        reads_kept_tokens: Whether it reads segments of which another reducer has left tokens out.
        reads_saliency: Whether the encoder must give the saliency of patches.
    """

    out_dim: int
    gives_grid: bool = False
    reads_kept_tokens: bool = False
    reads_saliency: bool = False

    @abstractmethod
    def forward(self, segment: SegmentInput, state: StateT | None) -> tuple[SegmentInput, StateT]:
        """Reduce one segment of every video.

        Frame groups stay as they are. A video that has the segment keeps at least one token of it: a reader has
        something to attend to. A video without this segment keeps its state, and its tokens stay masked. A token that
        stands for several has the place of one of them. The tokens of a video are in the order of their places.

        Args:
            segment: The segment of every video.
            state: State after the segment before; None at the start.

        Returns:
            The reduced segment, and the state after it.
        """


class VisualReader(RecordsArguments, nn.Module, ABC, Generic[StateT]):
    """Reads the segments of a video in order and gives the language model what it keeps of them.

    Memory bridges are readers; so are stores of frames or tokens. What a reader keeps is a state that ``forward`` takes
    and returns; the module stores nothing between calls. So a video gives the same numbers segment by segment
    (streaming) and all at once (offline). ``read`` turns any state into visual tokens. Subclasses are built as
    ``Reader(dim, out_dim, *, options)``: width D of the tokens that it reads and language model width E. Only
    ``forward`` and ``read`` must be written. The state is a tensor or a ``NamedTuple`` of tensors.

    Attributes:
        reads_questions: Whether ``read`` needs the questions.
        reads_kept_tokens: Whether ``forward`` reads segments of which a reducer has left tokens out.
        is_elastic: Whether ``read`` takes a budget.
        weight_reading_methods: Methods besides ``forward`` that call submodules or read weights: a strategy that shards
            gathers the weights for them.
    """

    reads_questions: bool = False
    reads_kept_tokens: bool = False
    is_elastic: bool = False
    weight_reading_methods: tuple[str, ...] = ("read", "written")

    @abstractmethod
    def forward(self, segment: SegmentInput, state: StateT | None) -> StateT:
        """Read one segment of every video.

        A video without this segment (no True in its row of ``frame_mask``) keeps its state. Then padding to S segments
        changes nothing.

        Args:
            segment: The segment of every video.
            state: State after the segment before; None at the start.

        Returns:
            State after this segment.
        """

    @abstractmethod
    def read(self, state: StateT, questions: Questions | None = None, *, budget: int | None = None) -> VisualTokens:
        """Turn a state into what the language model sees.

        Args:
            state: State after any segment.
            questions: What the conversations ask; needed where ``reads_questions``.
            budget: Most visual tokens of a row; None for as many as the reader gives. Only where ``is_elastic``.

        Returns:
            A row for every video; where ``reads_questions``, a row for every medium of every conversation.
        """

    def written(self, segment: SegmentInput, state: StateT) -> VisualTokens:
        """What one segment has added: the visual tokens to show while a video plays, segment by segment.

        Args:
            segment: The segment that was read last.
            state: State after it.

        Raises:
            NotImplementedError: The reader summarises, so no token belongs to one segment.
        """
        raise NotImplementedError(
            f"{type(self).__name__} gives no tokens of single segments; read() gives those of the video so far"
        )

    def prune(self, state: StateT) -> StateT:
        """Drop from a state what ``read`` does not use; ``penalty`` and ``diagnostics`` may change by it.

        Streaming calls it after every segment, which bounds the memory. The default drops nothing.
        """
        return state

    def penalty(self, state: StateT) -> Tensor | None:
        """What training adds to each video's answer loss, ``[V]``, given its last state; None for nothing."""
        return None

    def diagnostics(
        self, state: StateT, questions: Questions | None = None, *, with_attention: bool = False
    ) -> BridgeDiagnostics:
        """What monitors may show of a state. The default shows nothing.

        Args:
            state: State after any segment.
            questions: What the conversations ask; needed for the attention where ``reads_questions``.
            with_attention: Compute ``segment_attention`` too. Only this may call a module, so that monitors can ask for
                the rest while weights are sharded.
        """
        return BridgeDiagnostics()
