"""The contracts between a reader and the readout that turns its state into visual tokens.

The recurrent memory bridge has a ``MemoryState`` and a ``Readout``; the store of all tokens has ``StoredTokens`` and a
``TokenReadout``.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from components.interfaces.records import Questions, TokenPlaces, VisualTokens
from components.recorded_arguments import RecordsArguments


class MemoryState(NamedTuple):
    """State of a recurrent memory bridge after some segments. D is the bridge's inner width here.

    While a video plays, the tuples may have older entries in groups, tuples in turn
    (``components.bridges.segment_entries``). A readout gets them without groups.
    """

    memory: Tensor  # [V, M, D] lasting memory after the last real segment of every video
    gate_probability: Tensor  # [V] chance that the gate opens, summed over the segments after the first; 0 without gate
    cache: tuple[Tensor, ...]  # one [V, M, D] a segment: the memory tokens that it wrote
    cache_mask: tuple[Tensor, ...]  # one [V] bool a segment: videos that have it
    admitted: tuple[Tensor, ...]  # one [V] in 0..1 a segment: how much of it the gate admitted; empty without gate
    cache_ms: tuple[Tensor, ...]  # one [V] int64 a segment: time of its middle frame
    end_ms: Tensor  # [V] int64, time of the last frame so far
    last_input: Tensor  # [V, M + P, D] memory and patch tokens of the last real segment, input of the last layer
    tokens: Tensor  # [V, P, D] patch tokens after the last layer; P = 0 unless the readout reads them
    token_mask: Tensor  # [V, P] bool
    gate_logits: tuple[Tensor, ...] = ()  # one [V] float32 a segment: the gate's logit; empty without a capacity
    pruned: tuple[Tensor, ...] = ()  # entries of ``admitted`` at the front that the bridge's ``prune`` has kept


class Readout(RecordsArguments, nn.Module, ABC):
    """Turns the state of a recurrent memory bridge into visual tokens. Built as ``Readout(dim, out_dim, *, options)``.

    Attributes:
        reads_tokens: Whether ``forward`` reads ``tokens`` and ``token_mask`` of the state. If not, the bridge neither
            computes nor stores them.
        reads_questions: Whether ``forward`` needs the questions.
        shows_last_segment: Whether the visual tokens are of the last segment, so that they are what it has added.
    """

    reads_tokens: bool = False
    reads_questions: bool = False
    shows_last_segment: bool = False

    @abstractmethod
    def forward(self, state: MemoryState, questions: Questions | None = None) -> VisualTokens:
        """Read the state: a row for every video; where ``reads_questions``, a row for every conversation."""

    def segment_attention(self, state: MemoryState, questions: Questions | None = None) -> Tensor | None:
        """Attention of each query to each segment, ``[V, Q, S]``, for pictures; None if no query attends to segments.

        Where ``reads_questions`` it has a row for every conversation, ``[C, Q, S]``. Every row sums to 1.
        """
        return None


class StoredTokens(NamedTuple):
    """Tokens of every video with their places, in the order in which they were read."""

    tokens: Tensor  # [V, P, D]
    mask: Tensor  # [V, P] bool; padding between segments is masked
    places: TokenPlaces  # [V, P]
    num_cells: int  # N, cells of a frame's grid

    def frames(self) -> tuple[Tensor, Tensor]:
        """The tokens of full grids: ``[V, F, N, D]``, and which frames are real, ``[V, F]`` bool.

        Only where no reducer has left tokens out, see ``TokenReadout.reads_kept_tokens``.
        """
        grids: Tensor = self.tokens.unflatten(1, (-1, self.num_cells))
        is_real: Tensor = self.mask.unflatten(1, (-1, self.num_cells))[..., 0]
        return grids, is_real


class TokenReadout(RecordsArguments, nn.Module, ABC):
    """Turns stored tokens into visual tokens. Built as ``Readout(dim, out_dim, *, options)``.

    Attributes:
        reads_questions: Whether ``forward`` needs the questions.
        reads_kept_tokens: Whether it reads frames of which a reducer has left tokens out.
        is_elastic: Whether ``forward`` takes a budget.
        is_tokenwise: Whether every visual token comes from one stored token alone, so that the tokens of a video are
            those of its segments, one after the other.
    """

    reads_questions: bool = False
    reads_kept_tokens: bool = True
    is_elastic: bool = False
    is_tokenwise: bool = False

    @abstractmethod
    def forward(
        self, stored: StoredTokens, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Read the stored tokens: a row for every video; where ``reads_questions``, for every medium of a conversation.

        Args:
            stored: The tokens of all segments.
            questions: What the conversations ask; needed where ``reads_questions``.
            budget: Most visual tokens of a row; None for as many as the readout gives. Only where ``is_elastic``.
        """
