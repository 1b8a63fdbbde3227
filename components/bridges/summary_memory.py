"""A bridge that summarises every segment, and shows the summaries that fit the question."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.bridges.layers.causal_block import CausalBlock
from components.bridges.layers.padding import replace_rows
from components.bridges.layers.projection import token_projection
from components.bridges.summary_choice import ChosenSegments, choose_segments
from components.interfaces import Questions, SegmentInput, VisualReader, VisualTokens
from components.media_rows import rows_of_media
from components.positions import interleaved_sinusoid, patch_grid_positions, patch_grid_side, sinusoidal
from components.sharding import SkipsUnusedCompute

_LONGEST_QUESTION = 512.0  # longest wavelength of a word's position, in words


class SummaryState(NamedTuple):
    """Summaries of the segments so far. X is the summary tokens of a segment."""

    summaries: tuple[Tensor, ...]  # one [V, X, width] a segment
    masks: tuple[Tensor, ...]  # one [V, X] bool a segment; all False where a video lacks it
    indicators: tuple[Tensor, ...]  # one [V, width] a segment: what questions are compared with
    previous: Tensor  # [V, X, width] summary of each video's last real segment
    previous_mask: Tensor  # [V, X] bool


class SummaryMemory(VisualReader[SummaryState], SkipsUnusedCompute):
    """Writes a summary of every segment, and shows those of the few segments that fit the question.

    A small causal transformer reads the summary of the segment before, the segment's patches, learned summary tokens
    of every frame, and a learned indicator token. What it gives for the summary tokens is the segment's summary, which
    it also reads at the next segment; so each summary can hold what came earlier. What it gives for the indicator token
    tells what the segment is about. For a question, the same transformer reads the last summary, the words, and another
    learned token, whose output is compared with all indicators by cosine similarity. The summaries of the best segments
    are shown, in the order of time. In training noise is added to the similarities, and gradients reach them as if the
    choice were soft.

    All summaries are stored, so the memory grows with the video, by ``summary_tokens`` vectors a frame.

    Args:
        dim: Width D of a patch.
        out_dim: Language model width E.
        width: Inner width; D by default. Divisible by 4 and by ``num_heads``.
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        neighbours: Side of the squares of patches that are read as one token; 1 for every patch alone.
        summary_tokens: Summary tokens of a frame.
        num_chosen: Most segments that are shown.
        temperature: The similarities are divided by it before the soft choice.

    Raises:
        ValueError: A number is not positive, or the width fits neither heads nor positions.

    Source: VideoStreaming (arXiv:2405.16009), from the paper alone; no code is public. There the transformer is the
    first 16 layers of a pretrained language model with a prompt of the time in words. Here it is small and trained from
    the start, and patches and summary tokens carry a code of their frame's number. The loss that teaches the choice
    from annotated segments is not built.
    """

    reads_questions = True

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        width: int | None = None,
        num_layers: int = 4,
        num_heads: int = 8,
        neighbours: int = 2,
        summary_tokens: int = 4,
        num_chosen: int = 4,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        width = width or dim
        if min(num_layers, neighbours, summary_tokens, num_chosen) < 1 or temperature <= 0:
            raise ValueError(
                "num_layers, neighbours, summary_tokens and num_chosen must be at least 1 and temperature above 0, got "
                f"{num_layers}, {neighbours}, {summary_tokens}, {num_chosen} and {temperature}"
            )
        if width % 4:
            raise ValueError(f"width must be divisible by 4, because rows and columns get codes, got {width}")
        self.width = width
        self.neighbours = neighbours
        self.num_chosen = num_chosen
        self.temperature = temperature
        square = neighbours**2 * dim
        self.patch_input = nn.Sequential(nn.LayerNorm(square), nn.Linear(square, width))
        self.word_input = nn.Sequential(nn.LayerNorm(out_dim), nn.Linear(out_dim, width))
        self.summary_tokens = nn.Parameter(torch.randn(summary_tokens, width))
        self.indicator_token = nn.Parameter(torch.randn(1, width))
        self.question_token = nn.Parameter(torch.randn(1, width))
        self.layers = nn.ModuleList(CausalBlock(width, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.projection = token_projection(width, out_dim)

    def forward(self, segment: SegmentInput, state: SummaryState | None) -> SummaryState:
        """Summarise one segment of every video; see ``VisualReader.forward``.

        Raises:
            ValueError: A reducer has left tokens out, or the frames' grid is not divided by ``neighbours``.
        """
        patches, patch_mask = self._patches(segment)
        queries, query_mask = self._summary_queries(segment, patches.dtype)
        indicator = self.indicator_token.to(patches.dtype).expand(len(patches), -1, -1)
        parts = [(patches, patch_mask), (queries, query_mask), (indicator, query_mask.new_ones(len(patches), 1))]
        if state is not None:
            parts.insert(0, (state.previous, state.previous_mask))
        given = self._run(parts)
        summary, told = given[:, -1 - queries.shape[1] : -1], given[:, -1]
        if state is None:
            return SummaryState((summary,), (query_mask,), (told,), summary, query_mask)
        active, shortcut = segment.frame_mask.any(dim=1), self.may_skip_unused_compute
        return SummaryState(
            (*state.summaries, summary),
            (*state.masks, query_mask),
            (*state.indicators, told),
            replace_rows(active, summary, state.previous, shortcut=shortcut),
            replace_rows(active, query_mask, state.previous_mask, shortcut=shortcut),
        )

    def read(
        self, state: SummaryState, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Show the summaries that fit each question: ``[C * M, num_chosen * X, E]``, fewer of a short video.

        Raises:
            ValueError: There are no questions.
        """
        if questions is None:
            raise ValueError(
                "SummaryMemory chooses segments for a question, got none: give read() the questions of the "
                "conversations (components.question_text.embed_questions makes them)"
            )
        # A conversation without a video gets the row of any video, which no token shows: so that every rank makes the
        # same calls.
        video_index = questions.video_index.cpu()
        rows = video_index.clamp(min=0).flatten().to(state.previous.device, non_blocking=True)
        asked = self._asked(state.previous[rows], state.previous_mask[rows], questions)
        is_real = torch.stack([mask.any(dim=1) for mask in state.masks], dim=1)[rows]
        similarity = functional.cosine_similarity(
            asked.float()[:, None], torch.stack(state.indicators, dim=1)[rows].float(), dim=-1
        )
        scores = (similarity / self.temperature).masked_fill(~is_real, -torch.inf)
        chosen = choose_segments(scores, self.num_chosen, is_sampled=self.training)
        return self._shown(state, rows, chosen)._replace(row_index=rows_of_media(video_index))

    def written(self, segment: SegmentInput, state: SummaryState) -> VisualTokens:
        """Show the summary of the segment; see ``VisualReader.written``."""
        return VisualTokens(self.projection(state.summaries[-1]), state.masks[-1])

    def _shown(self, state: SummaryState, rows: Tensor, chosen: ChosenSegments) -> VisualTokens:
        """Visual tokens of the chosen segments of every row."""
        longest = max(each.shape[1] for each in state.summaries)
        summaries = [functional.pad(each, (0, 0, 0, longest - each.shape[1])) for each in state.summaries]
        masks = [functional.pad(each, (0, longest - each.shape[1])) for each in state.masks]
        taken = torch.stack(summaries, dim=1)[rows[:, None], chosen.segments]  # [C * M, chosen, X, width]
        tokens = taken * chosen.weights[..., None, None].to(taken.dtype)
        mask = torch.stack(masks, dim=1)[rows[:, None], chosen.segments]
        return VisualTokens(self.projection(tokens.flatten(1, 2)), mask.flatten(1))

    def _run(self, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
        """What the transformer gives for the tokens of all parts ``[V, P, width]`` with their masks ``[V, P]``."""
        tokens, mask = (torch.cat(each, dim=1) for each in zip(*parts, strict=True))
        for layer in self.layers:
            tokens = layer(tokens, mask)
        given: Tensor = self.norm(tokens)
        return given

    def _patches(self, segment: SegmentInput) -> tuple[Tensor, Tensor]:
        """Squares of patches as tokens of the inner width, and their mask."""
        grid, side = segment.grid(self), patch_grid_side(segment.num_cells)
        if side % self.neighbours:
            raise ValueError(
                f"frames have {side} x {side} patches, which neighbours {self.neighbours} does not divide: set "
                "neighbours to a divisor or to 1, or pool the patches to another grid"
            )
        count = side // self.neighbours
        squares = grid.unflatten(2, (count, self.neighbours, count, self.neighbours)).transpose(3, 4)
        tokens = self.patch_input(squares.flatten(4, 6).flatten(2, 3))  # [V, L, count^2, width]
        code = patch_grid_positions(count**2, self.width, grid.device) + self._frame_code(segment)
        mask = segment.frame_mask.repeat_interleave(count**2, dim=1)
        return (tokens + code.to(tokens.dtype)).flatten(1, 2), mask

    def _summary_queries(self, segment: SegmentInput, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The summary tokens of every frame before the transformer has read them, and their mask."""
        queries = (self.summary_tokens + self._frame_code(segment)).to(dtype).flatten(1, 2)
        return queries, segment.frame_mask.repeat_interleave(len(self.summary_tokens), dim=1)

    def _frame_code(self, segment: SegmentInput) -> Tensor:
        return interleaved_sinusoid(segment.frame_number, self.width)[:, :, None]  # [V, L, 1, width]

    def _asked(self, previous: Tensor, previous_mask: Tensor, questions: Questions) -> Tensor:
        """What each question is compared with, ``[C * M, width]``; its words are counted from its end."""
        words = self.word_input(questions.embeddings.to(previous.dtype))
        words_behind = questions.mask.flip(1).cumsum(dim=1).flip(1) - 1
        words = words + sinusoidal(words_behind, self.width, longest=_LONGEST_QUESTION, shortest=2.0).to(words.dtype)
        token = self.question_token.to(words.dtype).expand(len(words), -1, -1)
        parts = [(previous, previous_mask), (words, questions.mask), (token, questions.mask.new_ones(len(words), 1))]
        return self._run(parts)[:, -1]
