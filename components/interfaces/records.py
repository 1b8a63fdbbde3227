"""The records that parts pass to each other. The page ``components/interfaces/__init__.py`` explains the letters."""

from typing import NamedTuple, Protocol

from torch import Tensor

IGNORED_LABEL = -100
"""Label of a text token that is not scored."""

VIDEO_PLACEHOLDER = -200
"""Id in ``input_ids`` at the position where the visual tokens are inserted. No vocabulary has it."""

TEXT_ONLY = -1
"""``video_index`` of a conversation without a video."""


class FrameFeatures(NamedTuple):
    """The encoder's output for the packed frames."""

    cls: Tensor  # [F, D]
    patches: Tensor  # [F, N, D]
    saliency: Tensor | None = None  # [F, N] float32, how much each patch matters to the frame; None where not computed
    joint: Tensor | None = None  # [F, J] embedding of the frame in a space that it shares with text; None without one


class FrameGroups(NamedTuple):
    """Which frames of every segment the bridge reads; the frames of one group are neighbours and are averaged."""

    first: Tensor  # [V, S, L] int64, position in its segment of each group's first frame, ascending
    num_frames: Tensor  # [V, S, L] int64, frames of each group; 0 where a segment has fewer groups than L


class Segments(NamedTuple):
    """Indices of the packed frames that the bridge reads of segment ``s`` of video ``v``."""

    frame_index: Tensor  # [V, S, L, G] int64 into the packed frames; 0 where masked
    frame_mask: Tensor  # [V, S, L, G] bool; a group's frames come first and are neighbours

    @property
    def group_mask(self) -> Tensor:
        """Groups that have a frame, ``[V, S, L]`` bool."""
        return self.frame_mask.any(dim=3)


class SegmentInput(NamedTuple):
    """What the bridge reads in one recurrent step: segment ``s`` of every video at once."""

    patches: Tensor  # [V, L, N, D], mean over each frame group
    frame_mask: Tensor  # [V, L] bool; a row without any True is a video that has no such segment
    frame_ms: Tensor  # [V, L] int64, time of each group's middle frame in its video


class VisualTokens(NamedTuple):
    """What the language model sees: one row a video, or one row a conversation."""

    tokens: Tensor  # [V, Q, E], or [C, Q, E] where the bridge has read the questions
    mask: Tensor  # [V, Q] or [C, Q] bool
    row_index: Tensor | None = None  # [C] int64 row of every conversation, TEXT_ONLY without one; None: its video's

    def of_conversation(self, conversation: int) -> "VisualTokens":
        """The visual tokens for one conversation of the batch."""
        rows = self.row_index
        return self if rows is None else self._replace(row_index=rows[conversation : conversation + 1])


class BridgeDiagnostics(NamedTuple):
    """What monitors may show of a bridge; None for what a bridge does not have."""

    memory: Tensor | None = None  # [V, M, D] memory tokens after each video's last real segment
    admitted: Tensor | None = None  # [V, S] in 0..1, how much of each segment the gate admitted to the memory
    segment_attention: Tensor | None = None  # [V, Q, S], or [C, Q, S] with questions; every row sums to 1


class Questions(NamedTuple):
    """What the conversations ask: their text before the first answer, as embeddings of the language model.

    It holds no part of an answer, so training and inference read the same.
    """

    embeddings: Tensor  # [C, K, E]
    mask: Tensor  # [C, K] bool, True at the question's tokens; a row may have none
    video_index: Tensor  # [C] int64, see TextInputs


class TextInputs(NamedTuple):
    """Conversations of a batch, padded on the right."""

    input_ids: Tensor  # [C, K] int64, VIDEO_PLACEHOLDER where the visual tokens are inserted
    text_mask: Tensor  # [C, K] bool
    labels: Tensor  # [C, K] int64, IGNORED_LABEL where not scored; not shifted
    video_index: Tensor  # [C] int64 into the videos of the batch, TEXT_ONLY without one


class AnswerLoss(NamedTuple):
    """Negative log likelihood of every conversation's answer tokens."""

    nll: Tensor  # [C] float32, summed over the answer's tokens
    num_tokens: Tensor  # [C] int64
    num_positions: Tensor | None = None  # [] int64, text and visual tokens that were read; None where unknown
    num_computed_positions: int = 0  # the same with the padding


class VideoTextBatch(Protocol):
    """What the model reads of a batch; ``datamodules.batch.Batch`` has it."""

    @property
    def frames(self) -> Tensor:
        """Packed frames: uint8 ``[F, 3, H, W]``, or cached features ``[F, 1 + N, D]`` (class token first)."""

    @property
    def frame_counts(self) -> Tensor:
        """Frames of every video, ``[V]`` int64, summing to F."""

    @property
    def frame_ms(self) -> Tensor:
        """Time of every frame in its video, ``[F]`` int64 milliseconds."""

    @property
    def input_ids(self) -> Tensor:
        """See ``TextInputs``."""

    @property
    def text_mask(self) -> Tensor:
        """See ``TextInputs``."""

    @property
    def labels(self) -> Tensor:
        """See ``TextInputs``."""

    @property
    def video_index(self) -> Tensor:
        """See ``TextInputs``."""
