"""The readout that reads the question before it reads the cache."""

import torch
from torch import Tensor, nn

from components.bridges.layers.attention import Attention
from components.bridges.readouts.cache import CacheKeys, CacheReadout
from components.interfaces import MemoryState, Questions, VisualTokens
from components.media_rows import rows_of_media
from components.positions import sinusoidal


class RetrievedReadout(CacheReadout):
    """Learned queries attend to the words of the question, then to the memory tokens that every segment wrote.

    So every conversation gets visual tokens of its own, which can hold what was asked for instead of a summary for any
    question. Their number does not change. Answers are never read. The position of a word is counted from the end of
    the question, so neither padding nor a longer system prompt moves it.

    Args:
        dim: Bridge width D; even.
        out_dim: Language model width E.
        num_queries: Visual tokens Q.
        num_heads: Attention heads.
        keys: See ``CacheReadout``.
        longest_question: Longest wavelength of a word's position, in words; words further apart look alike.
    """

    reads_questions = True

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        num_queries: int = 16,
        num_heads: int = 8,
        keys: CacheKeys = CacheKeys(),  # noqa: B008  immutable
        longest_question: float = 512.0,
    ) -> None:
        super().__init__(dim, out_dim, num_queries=num_queries, num_heads=num_heads, keys=keys)
        self.word_input = nn.Sequential(nn.LayerNorm(out_dim), nn.Linear(out_dim, dim))
        self.word_attention = Attention(dim, num_heads)
        # A key beside the words, so that a question without any word has something to attend to.
        self.no_word = nn.Parameter(torch.randn(dim) * 0.02)
        self.longest_question = longest_question

    def forward(self, state: MemoryState, questions: Questions | None = None) -> VisualTokens:
        """Read the cache for every question: ``[C * M, Q, E]``, all real.

        Raises:
            ValueError: There are no questions.
        """
        visual = super().forward(state, questions)
        assert questions is not None  # or the line above had raised
        video_index = questions.video_index.cpu()  # a strategy may have moved it
        return visual._replace(row_index=rows_of_media(video_index))

    def _attended(self, state: MemoryState, questions: Questions | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, one row a question, keys of each one's video, and their mask."""
        if questions is None:
            raise ValueError(
                "RetrievedReadout reads the memory for a question, got none: give read() the questions of the "
                "conversations (components.question_text.embed_questions makes them), or use CacheReadout"
            )
        queries, keys, mask = super()._attended(state, None)
        learned = queries[:1].expand(len(questions.embeddings), -1, -1)
        # A conversation without a video gets the row of any video, which no token shows: so that every rank makes the
        # same calls.
        rows = questions.video_index.clamp(min=0).flatten().to(keys.device, non_blocking=True)
        return learned + self._found_in_question(learned, questions), keys[rows], mask[rows]

    def _found_in_question(self, learned: Tensor, questions: Questions) -> Tensor:
        """What the learned queries find in the question, ``[C * M, Q, D]``."""
        words = self.word_input(questions.embeddings.to(learned.dtype))  # [C * M, K, D]
        words_behind = questions.mask.flip(1).cumsum(dim=1).flip(1) - 1
        position = sinusoidal(words_behind, words.shape[-1], longest=self.longest_question, shortest=2.0)
        no_word = self.no_word.to(words.dtype).expand(len(words), 1, -1)
        context = torch.cat([no_word, words + position.to(words.dtype)], dim=1)
        mask = torch.cat([questions.mask.new_ones(len(words), 1), questions.mask], dim=1)
        found: Tensor = self.word_attention(learned, context, mask)
        return found
