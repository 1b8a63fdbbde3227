"""A token of what the question attends to in each frame, beside tokens of what the frame shows."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.interfaces import Questions, StoredTokens, TokenReadout, VisualTokens
from components.media_rows import rows_of_media
from components.positions import patch_grid_side

Content = Literal["mean", "grid", "all"]


class ContextToken(TokenReadout):
    """Shows two tokens of every frame or a few more: what the question attends to in it, and what it shows.

    Every word of the question attends to the patches of a frame; the mean of what the words find is the context token.
    The content tokens after it do not depend on the question.

    Args:
        dim: Width D of the patches.
        out_dim: Language model width E.
        content: ``mean``: one token, the mean of the patches. ``grid``: a grid of means. ``all``: every patch.
        grid: Side of that grid.

    Raises:
        ValueError: ``content`` is none of the three, or ``grid`` is not positive.

    Source: LLaMA-VID (arXiv:2311.17043), dvlab-research/LLaMA-VID (Apache-2.0), ``llamavid_arch.py: token_generation``,
    commit b3d3ae2. There the words come from a Q-Former with a text encoder; here they are the language model's
    embeddings of the question, and a learned map takes them to the width of the patches.
    """

    reads_questions = True
    reads_kept_tokens = False

    def __init__(self, dim: int, out_dim: int, *, content: Content = "mean", grid: int = 2) -> None:
        super().__init__()
        if content not in get_args(Content):
            raise ValueError(f"content must be one of {get_args(Content)}, got {content!r}")
        if grid < 1:
            raise ValueError(f"grid must be at least 1, got {grid}")
        self.content = content
        self.grid = grid
        self.query = nn.Sequential(nn.LayerNorm(out_dim), nn.Linear(out_dim, dim))
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, out_dim)
        self.projection = nn.Linear(dim, out_dim)

    def forward(
        self, stored: StoredTokens, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Read every frame for every question: ``[C * M, F * (1 + content tokens), E]``, frame by frame.

        Raises:
            ValueError: There are no questions.
        """
        if questions is None:
            raise ValueError(
                "ContextToken reads the video for a question, got none: give read() the questions of the conversations "
                "(components.question_text.embed_questions makes them)"
            )
        grids, is_real = stored.frames()
        # A conversation without a video gets the row of any video, which no token shows.
        rows = questions.video_index.clamp(min=0).flatten().to(grids.device, non_blocking=True)
        words = self.query(questions.embeddings.to(grids.dtype))  # [C * M, K, D]
        found = context_of(words, questions.mask, grids[rows], self.key)  # [C * M, F, D]
        shown = self.projection(self._content(grids))[rows]  # [C * M, F, n, E]
        tokens = torch.cat([self.value(found).unsqueeze(2), shown], dim=2)
        mask = is_real[rows].repeat_interleave(tokens.shape[2], dim=1)
        return VisualTokens(tokens.flatten(1, 2), mask, rows_of_media(questions.video_index.cpu()))

    def _content(self, grids: Tensor) -> Tensor:
        """What every frame shows, ``[V, F, n, D]``."""
        if self.content == "all":
            return grids
        if self.content == "mean":
            return grids.mean(dim=2, keepdim=True)
        return pooled_cells(grids, self.grid)


def context_of(words: Tensor, word_mask: Tensor, grids: Tensor, key: nn.Module) -> Tensor:
    """What the words of a question find in every frame, on average.

    Args:
        words: Queries, ``[R, K, D]``.
        word_mask: Real words, ``[R, K]`` bool; without one, every patch counts alike.
        grids: Patches, ``[R, F, N, D]``.
        key: Gives the keys of patches; values are the patches themselves.

    Returns:
        ``[R, F, D]``.
    """
    scores = torch.einsum("rkd,rfnd->rfkn", words, key(grids)) / words.shape[-1] ** 0.5
    real = word_mask.to(scores.dtype)[:, None, :, None]
    weights = (scores.softmax(dim=-1) * real).sum(dim=2) / real.sum(dim=2).clamp(min=1)  # [R, F, N]
    even = torch.full_like(weights, 1 / weights.shape[-1])
    weights = torch.where(word_mask.any(dim=1)[:, None, None], weights, even)
    found: Tensor = torch.einsum("rfn,rfnd->rfd", weights, grids)
    return found


def pooled_cells(grids: Tensor, side: int) -> Tensor:
    """Means over windows of ``old side // side`` patches, ``[V, F, side * side, D]``; rows and columns left over go."""
    old = patch_grid_side(grids.shape[2])
    planes = grids.flatten(0, 1).mT.unflatten(2, (old, old))
    pooled = functional.avg_pool2d(planes, kernel_size=max(1, old // side))
    cells: Tensor = pooled.flatten(2).mT.unflatten(0, grids.shape[:2])
    return cells
