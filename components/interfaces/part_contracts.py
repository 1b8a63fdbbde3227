"""Contracts of the parts that are modules: encoder, patch pooling, memory bridge, language model."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from torch import Tensor, nn

from components.interfaces.language_state import Answers, DecodingSettings, LanguageState, Streamer
from components.interfaces.records import (
    AnswerLoss,
    BridgeDiagnostics,
    FrameFeatures,
    Questions,
    SegmentInput,
    TextInputs,
    VisualTokens,
)


class FrameEncoder(nn.Module, ABC):
    """Turns every frame into one class vector and N patch vectors.

    Attributes:
        dim: Vision width D.
        num_patches: Patches of a frame, N.
        window_frames: Frames attend to each other within windows of this many, counted from their video's start. 1:
            every frame is encoded by itself. None: all frames of a video attend to each other, so it cannot be encoded
            while it plays.
    """

    dim: int
    num_patches: int
    window_frames: int | None = 1

    @abstractmethod
    def forward(self, frames: Tensor, frame_counts: Tensor) -> FrameFeatures:
        """Encode the F packed frames in one call.

        Args:
            frames: uint8 ``[F, 3, H, W]`` (``CachedFeatures`` reads ``[F, 1 + N, D]``). F may be 0.
            frame_counts: Frames of every video, ``[V]``; only encoders that attend across frames use it.
        """

    @abstractmethod
    def dummy_frames(self, device: object) -> Tensor:
        """One all-zero frame as ``forward`` reads it.

        A batch without video runs it, masked, so that every rank makes the same calls.
        """


class PatchPooling(nn.Module, ABC):
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


StateT = TypeVar("StateT")


class VisualReader(nn.Module, ABC, Generic[StateT]):
    """Reads the segments of a video in order and gives the language model what it remembers of them.

    The memory is a state that ``forward`` takes and returns; the module stores nothing between calls. So a video gives
    the same numbers segment by segment (streaming) and all at once (offline). ``read`` turns any state into visual
    tokens. Subclasses are built as ``Bridge(dim, out_dim, *, options)``: vision width D and language model width E.
    Only ``forward`` and ``read`` must be written. The state is a tensor or a ``NamedTuple`` of tensors.

    Attributes:
        reads_questions: Whether ``read`` needs the questions.
    """

    reads_questions: bool = False

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
    def read(self, state: StateT, questions: Questions | None = None) -> VisualTokens:
        """Turn a state into what the language model sees.

        Args:
            state: State after any segment.
            questions: What the conversations ask; needed where ``reads_questions``.

        Returns:
            A row for every video; where ``reads_questions``, a row for every conversation.
        """

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


class LanguageModel(nn.Module, ABC):
    """A causal language model that reads visual tokens at the placeholders of its text.

    It answers from a state: ``prefill`` reads prompts, ``decode`` answers, ``extend`` reads a next question, ``score``
    compares answer options. A state never changes, so any number of questions and options can follow the same one.

    ``components.language.cached_language_model.CachedLanguageModel`` has all of this but the network.

    Attributes:
        dim: Embedding width E.
        may_run_again: Whether a call may be computed again in the backward pass, to save memory.
        weight_reading_methods: Methods besides ``forward`` that read weights: a strategy that shards gathers the
            weights for them. They do not call each other.
    """

    dim: int
    may_run_again: bool = True
    weight_reading_methods: tuple[str, ...] = (
        "embed",
        "prefill",
        "extend",
        "decode",
        "score",
        "generate",
        "score_options",
    )

    @abstractmethod
    def embed(self, input_ids: Tensor) -> Tensor:
        """Embed text, ``[C, K, E]``, as the model itself does; the value at a placeholder means nothing."""

    @abstractmethod
    def prompts(self, questions: Sequence[str]) -> TextInputs:
        """Write questions about a batch's first video as prompts.

        The visual tokens are inserted at ``<video>``, or in front of a question without it.
        """

    @abstractmethod
    def next_prompts(self, conversations: Sequence[Sequence[tuple[str, str]]]) -> TextInputs:
        """Write what follows the last answers up to the next answers, for ``extend``.

        Args:
            conversations: Role (``system``, ``user``, ``assistant``) and text of every turn so far. The last turn is
                the new question, the one before it the answer that the state has read.
        """

    @abstractmethod
    def forward(self, visual: VisualTokens, text: TextInputs) -> AnswerLoss:
        """Score the answers; only the labelled positions go through the output layer."""

    @abstractmethod
    def prefill(self, visual: VisualTokens, text: TextInputs, room: int = 0) -> LanguageState:
        """Read all tokens of C conversations. A beginning that several share is read once.

        Args:
            visual: Visual tokens of the batch.
            text: The conversations.
            room: Tokens that must still fit into the context afterwards.
        """

    @abstractmethod
    def extend(self, state: LanguageState, text: TextInputs, visual: VisualTokens | None = None) -> LanguageState:
        """Read more tokens of every conversation: the next question, or more visual tokens.

        Args:
            state: What was read before.
            text: The new tokens, at least one a conversation.
            visual: Visual tokens for the placeholders in ``text``; None if it has none.
        """

    @abstractmethod
    def decode(self, state: LanguageState, settings: DecodingSettings, streamer: Streamer | None = None) -> Answers:
        """Answer every conversation.

        Args:
            state: What was read.
            settings: How tokens are chosen.
            streamer: Gets every token as soon as it is chosen.

        Returns:
            The answers, and the state after them.
        """

    @abstractmethod
    def score(self, state: LanguageState, options: Sequence[Sequence[str]]) -> list[Tensor]:
        """Mean log likelihood per token of every answer option, one tensor ``[number of options]`` a conversation."""

    @abstractmethod
    def generate(self, visual: VisualTokens, text: TextInputs, max_new_tokens: int) -> list[str]:
        """Answer greedily. A prompt is a conversation up to its first labelled token."""

    @abstractmethod
    def score_options(self, visual: VisualTokens, text: TextInputs, options: Sequence[Sequence[str]]) -> list[Tensor]:
        """Score options like ``score``. A prompt is a conversation up to its first labelled token."""
