"""The readout that knows what is asked."""

import torch
from torch import Tensor, nn

from components.bridges.layers.attention import Attention
from components.bridges.readouts.memory import CacheReadout, MemoryState
from components.interfaces import TEXT_ONLY, Questions, VisualTokens
from components.positions import sinusoidal


class RetrievedReadout(CacheReadout):
    """Queries that have read the question attend over the memories of all segments.

    Learned queries first attend to the question's words, then, like those of ``CacheReadout``, to the whole cache. So
    the visual tokens are a conversation's own, always as many, and can hold what was asked for instead of a summary
    for any question. Answers are never read. Padding of the text changes nothing: a word's place is counted from the
    question's end, where a longer system prompt does not move it either.

    Args:
        dim: Bridge width D; even.
        out_dim: Language model width E.
        num_queries: Visual tokens Q.
        num_heads: Attention heads.
    """

    reads_questions = True

    def __init__(self, dim: int, out_dim: int, *, num_queries: int = 16, num_heads: int = 8) -> None:
        super().__init__(dim, out_dim, num_queries=num_queries, num_heads=num_heads)
        self.word_input = nn.Sequential(nn.LayerNorm(out_dim), nn.Linear(out_dim, dim))
        self.word_attention = Attention(dim, num_heads)
        # Stands beside the words, so that a question without any has something to attend to.
        self.no_word = nn.Parameter(torch.randn(dim) * 0.02)

    def forward(self, state: MemoryState, questions: Questions | None = None) -> VisualTokens:
        """Read the whole cache for every question: ``[C, Q, E]``, all real.

        Raises:
            ValueError: There are no questions.
        """
        visual = super().forward(state, questions)
        assert questions is not None  # or the line above had raised
        rows = torch.arange(len(questions.video_index), device=visual.tokens.device)
        return visual._replace(row_index=rows.masked_fill(questions.video_index == TEXT_ONLY, TEXT_ONLY))

    def _attended(self, state: MemoryState, questions: Questions | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``[C, Q, D]``, keys ``[C, segments * M, D]`` of each one's video, and their mask."""
        if questions is None:
            raise ValueError(
                "RetrievedReadout reads the memory for a question, got none: give read() the questions of the "
                "conversations (components.questions.embed_questions makes them), or use CacheReadout"
            )
        queries, keys, mask = super()._attended(state, None)
        learned = queries[:1].expand(len(questions.video_index), -1, -1)
        # A conversation without a video gets some video's row, which nothing shows: every rank calls every part alike.
        rows = questions.video_index.clamp(min=0)
        return learned + self._asked(learned, questions), keys[rows], mask[rows]

    def _asked(self, learned: Tensor, questions: Questions) -> Tensor:
        """What the learned queries find in the question, ``[C, Q, D]``."""
        words = self.word_input(questions.embeddings.to(learned.dtype))  # [C, K, D]
        words_behind = questions.mask.flip(1).cumsum(dim=1).flip(1) - 1
        place = sinusoidal(words_behind, words.shape[-1], longest=_LONGEST_QUESTION, shortest=2.0)
        context = torch.cat([self.no_word.to(words.dtype).expand(len(words), 1, -1), words + place.to(words.dtype)], 1)
        mask = torch.cat([questions.mask.new_ones(len(words), 1), questions.mask], dim=1)
        found: Tensor = self.word_attention(learned, context, mask)
        return found


# Longest wavelength of a word's place, in words: places further apart than this begin to look alike.
_LONGEST_QUESTION = 512.0
