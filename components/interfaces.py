"""The records that flow through the system and the contracts of its swappable parts. Read this file first.

Notation, used in every shape comment of the code base:

    V  videos of a batch (an image is a video of one frame)
    F  frames of all videos, packed back to back: no padding ever enters the encoder
    N  patches of a frame            D  vision width
    S  segments of the longest video L  slots of the longest segment: frames as the bridge reads them
    G  frames that one slot averages: 1 unless a frame selection pools
    M  memory tokens                 Q  visual tokens that reach the language model
    C  conversations                 K  text tokens of the longest conversation
    E  language model width

Masks are bool, True = real. Times are integer milliseconds: precision plugins cast every float of a batch, and
3601.5 s and 3603.0 s are the same number in bfloat16. Records are ``NamedTuple``s: Lightning's device move and
DeepSpeed's ZeRO-3 hooks both fail on dataclasses.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

IGNORED_LABEL = -100
"""Label of a text token that is not scored."""

VIDEO_PLACEHOLDER = -200
"""Id that stands in ``input_ids`` where a conversation's visual tokens belong. No vocabulary holds it."""

TEXT_ONLY = -1
"""``video_index`` of a conversation without a video."""


class FrameFeatures(NamedTuple):
    """What the encoder makes of the packed frames."""

    cls: Tensor  # [F, D]
    patches: Tensor  # [F, N, D]


class Segments(NamedTuple):
    """Which packed frames the bridge reads of segment ``s`` of video ``v``; a slot is the mean of its G frames."""

    frame_index: Tensor  # [V, S, L, G] int64 into the packed frames; 0 where masked
    frame_mask: Tensor  # [V, S, L, G] bool; the frames of a slot come first and are neighbours

    @property
    def slot_mask(self) -> Tensor:
        """Slots that hold a frame, ``[V, S, L]`` bool."""
        return self.frame_mask.any(dim=3)


class SegmentInput(NamedTuple):
    """What the bridge reads in one recurrent step: segment ``s`` of every video at once."""

    patches: Tensor  # [V, L, N, D], of a frame or the mean of several
    frame_mask: Tensor  # [V, L] bool; a row without any True is a video that has no such segment
    frame_ms: Tensor  # [V, L] int64, time of each frame in its video; of several, that of the middle one


class VisualTokens(NamedTuple):
    """What the language model sees: one row a video, or rows of their own for the conversations."""

    tokens: Tensor  # [V, Q, E], or [C, Q, E] where the bridge has read the questions
    mask: Tensor  # [V, Q] or [C, Q] bool
    row_index: Tensor | None = None  # [C] int64 row of every conversation, TEXT_ONLY without one; None: its video's

    def of_conversation(self, conversation: int) -> "VisualTokens":
        """What belongs to one conversation of the batch, cut out of it."""
        rows = self.row_index
        return self if rows is None else self._replace(row_index=rows[conversation : conversation + 1])


class Questions(NamedTuple):
    """What the conversations ask: their text before the first answer, as the language model embeds it.

    Nothing of an answer is in it, so what is read for a question is the same in training and when it is asked.
    """

    embeddings: Tensor  # [C, K, E]
    mask: Tensor  # [C, K] bool, True at the question's tokens; a row may be without any
    video_index: Tensor  # [C] int64, see TextInputs


class TextInputs(NamedTuple):
    """Conversations of a batch, padded on the right."""

    input_ids: Tensor  # [C, K] int64, VIDEO_PLACEHOLDER where visual tokens belong
    text_mask: Tensor  # [C, K] bool
    labels: Tensor  # [C, K] int64, IGNORED_LABEL where not scored; not shifted
    video_index: Tensor  # [C] int64 into the videos of the batch, TEXT_ONLY without one


class AnswerLoss(NamedTuple):
    """Negative log likelihood of every conversation's answer tokens."""

    nll: Tensor  # [C] float32, summed over the answer's tokens
    num_tokens: Tensor  # [C] int64
    num_positions: Tensor | None = None  # [] int64, text and visual tokens that were read; None where it is not told
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


class FrameEncoder(nn.Module, ABC):
    """Turns every frame into one class vector and N patch vectors.

    Attributes:
        dim: Vision width D.
        num_patches: Patches of a frame, N.
        window_frames: Neighbouring frames that look at each other, in windows counted from their video's start. With 1,
            equal frames need to be encoded only once. None: all frames of a video; it cannot be encoded as it plays.
    """

    dim: int
    num_patches: int
    window_frames: int | None = 1

    @abstractmethod
    def forward(self, frames: Tensor, frame_counts: Tensor) -> FrameFeatures:
        """Encode packed frames in one call; gives the features of the F frames.

        Args:
            frames: uint8 ``[F, 3, H, W]`` (``CachedFeatures`` reads ``[F, 1 + N, D]``). F may be 0.
            frame_counts: Frames of every video, ``[V]``; only encoders that look across frames use it.
        """

    @abstractmethod
    def dummy_frames(self, device: object) -> Tensor:
        """One all-zero frame as ``forward`` reads it: a batch without video runs it, masked, to make the same calls."""


class SegmenterStream(Protocol):
    """A segmenter that takes one frame at a time."""

    def push(self, cls: Tensor) -> None:
        """Take the next frame's class vector ``[D]``."""

    def segment_index(self) -> Tensor:
        """Segments of the frames so far, ``[t]`` int64: exactly what the offline form gives for them."""


@runtime_checkable
class CausalSegmenterStream(SegmenterStream, Protocol):
    """A stream that settles boundaries while the video plays."""

    def declared(self) -> list[int]:
        """Last frame of every segment that the frames so far have settled, ascending; only grows, never changes."""


class Segmenter(ABC):
    """Cuts every video into segments. Stateless and without parameters."""

    @abstractmethod
    def segment(self, cls: Tensor, frame_counts: Tensor) -> Tensor:
        """Number the segments.

        Args:
            cls: Class vectors of the packed frames, ``[F, D]``.
            frame_counts: Frames of every video, ``[V]`` int64, each at least 1.

        Returns:
            Segment of every frame in its video, ``[F]`` int64: starts at 0 in every video, grows by 0 or 1.
        """

    @abstractmethod
    def stream(self) -> SegmenterStream:
        """Start the frame-by-frame form of the same algorithm."""


StateT = TypeVar("StateT")


class MemoryBridge(nn.Module, ABC, Generic[StateT]):
    """Walks the segments in order and carries what matters to the language model.

    ``forward`` takes the state and gives the next one; the module itself remembers nothing, which makes streaming equal
    to offline. ``read`` turns any state into visual tokens: whether after every segment or when a question arrives.
    Subclasses are built as ``Bridge(dim, out_dim, *, options)``: vision width D and language model width E.

    Attributes:
        reads_questions: Whether ``read`` needs the questions; others ignore them.
    """

    reads_questions: bool = False

    @abstractmethod
    def forward(self, segment: SegmentInput, state: StateT | None) -> StateT:
        """Read one segment of every video.

        Rows whose ``frame_mask`` holds no True keep what they had, so padding to S segments changes nothing.

        Args:
            segment: The segment of every video.
            state: State after the segment before; None at the start.

        Returns:
            State after this segment.
        """

    @abstractmethod
    def read(self, state: StateT, questions: Questions | None = None) -> VisualTokens:
        """Turn a state into what the language model sees.

        Args:
            state: State after any segment.
            questions: What the conversations ask; needed where ``reads_questions``.

        Returns:
            A row for every video; where ``reads_questions``, a row for every conversation.
        """

    def prune(self, state: StateT) -> StateT:
        """A state that may lack what readings do not see; they stay equal, ``penalty`` does not."""
        return state

    def penalty(self, state: StateT) -> Tensor | None:
        """What training adds to each video's answer loss, ``[V]``, given its last state; None for nothing."""
        return None


class LanguageModel(nn.Module, ABC):
    """A causal language model that reads visual tokens where the placeholders stand.

    Attributes:
        dim: Embedding width E.
        may_run_again: Whether a whole call may be computed again in the backward pass, to save memory.
    """

    dim: int
    may_run_again: bool = True

    @abstractmethod
    def embed(self, input_ids: Tensor) -> Tensor:
        """Embed text, ``[C, K, E]``, as the model itself reads it; any value at placeholders."""

    @abstractmethod
    def prompts(self, questions: Sequence[str]) -> TextInputs:
        """Write questions about a batch's first video as prompts; visual tokens at ``<video>``, in front without it."""

    @abstractmethod
    def forward(self, visual: VisualTokens, text: TextInputs) -> AnswerLoss:
        """Score the answers; only the labelled positions reach the output layer."""

    @abstractmethod
    def generate(self, visual: VisualTokens, text: TextInputs, max_new_tokens: int) -> list[str]:
        """Answer greedily. Each prompt is what stands before its conversation's first labelled token."""

    @abstractmethod
    def score_options(self, visual: VisualTokens, text: TextInputs, options: Sequence[Sequence[str]]) -> list[Tensor]:
        """Mean log likelihood per token of every answer option, one tensor ``[number of options]`` a conversation."""


class LossSchedule(ABC):
    """Decides after which segments the language model's loss is taken, and how much each counts."""

    @abstractmethod
    def steps(self, num_segments: int) -> Sequence[int]:
        """Segments to read after; depends on S alone, so that every rank makes the same calls."""

    @abstractmethod
    def weights(self, segment_mask: Tensor) -> Tensor:
        """Weight of every reading, ``[V, R]`` float32 for the R steps of ``steps(S)``; every row sums to 1.

        Args:
            segment_mask: Which segments are real, ``[V, S]`` bool.
        """
