"""Pools windows of a video, where the patches that fit the question count most."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.interfaces import Questions, StoredTokens, TokenReadout, VisualTokens
from components.media_rows import rows_of_media
from components.positions import patch_grid_side


class QuestionGuidedPooling(TokenReadout):
    """Makes one token of every window over time, rows and columns; patches that fit the question count most in it.

    The question is the mean of the language model's embeddings of its words. Question and patches are mapped to a space
    of their own; the weights of all patches of the video are a softmax of their similarities, and those of a window a
    softmax of its weights.

    Args:
        dim: Width D of the patches.
        out_dim: Language model width E.
        window: Frames, rows and columns of a window. What fills no window at the end is left out, but a video with
            fewer frames than a window is one window long.
        temperature: Of the weights inside a window; smaller ones choose more sharply.
        space: Width in which question and patches are compared.

    Raises:
        ValueError: A side of the window, ``temperature`` or ``space`` is not positive.

    Source: PPLLaVA (arXiv:2411.02327), farewellthree/PPLLaVA (Apache-2.0), ``weighted_adaptive_avg_pool3d_unfold``,
    commit d5766c8, with windows (2, 3, 3) and temperature 0.01. There the space is that of a pretrained dual encoder,
    with its text part; here both maps are learned from random weights, which is another method where they are not
    trained long.
    """

    reads_questions = True
    reads_kept_tokens = False

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        window: tuple[int, int, int] = (2, 3, 3),
        temperature: float = 0.01,
        space: int = 256,
    ) -> None:
        super().__init__()
        if len(window) != 3 or min(window) < 1 or temperature <= 0 or space < 1:
            raise ValueError(
                f"window must have three positive numbers, temperature and space must be above 0; got {window}, "
                f"{temperature} and {space}"
            )
        self.window = window
        self.temperature = temperature
        self.projection = nn.Sequential(nn.Linear(dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim))
        self.patch_space, self.word_space = nn.Linear(dim, space), nn.Linear(out_dim, space)
        self.scale = nn.Parameter(torch.tensor([2.659]))  # logarithm of 1 / 0.07, as CLIP's; ZeRO-3 needs a dimension

    def forward(
        self, stored: StoredTokens, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Pool for every question: ``[C * M, windows, E]``, frame by frame.

        Raises:
            ValueError: There are no questions.
        """
        if questions is None:
            raise ValueError(
                "QuestionGuidedPooling reads the video for a question, got none: give read() the questions"
            )
        grids, is_real = _real_first(*stored.frames())
        # A conversation without a video gets the row of any video, which no token shows.
        rows = questions.video_index.clamp(min=0).flatten().to(grids.device, non_blocking=True)
        weights = self._weights(grids[rows], is_real[rows], questions)
        tokens, mask = pooled_windows(
            self.projection(grids)[rows], weights, is_real[rows], self.window, self.temperature
        )
        return VisualTokens(tokens, mask, rows_of_media(questions.video_index.cpu()))

    def _weights(self, grids: Tensor, is_real: Tensor, questions: Questions) -> Tensor:
        """How much every patch of the video fits the question, ``[R, F, N]`` float32, together 1."""
        mask = questions.mask.to(grids.dtype).unsqueeze(2)
        question = (questions.embeddings.to(grids.dtype) * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        asked = functional.normalize(self.word_space(question).float(), dim=1)
        shown = functional.normalize(self.patch_space(grids).float(), dim=3)
        scores = self.scale.float().exp() * torch.einsum("rs,rfns->rfn", asked, shown)
        scores = scores.masked_fill(~is_real.unsqueeze(2), -torch.inf)
        weights: Tensor = scores.flatten(1).softmax(dim=1).nan_to_num(0.0).view_as(scores)
        return weights


def pooled_windows(
    patches: Tensor, weights: Tensor, is_real: Tensor, window: tuple[int, int, int], temperature: float
) -> tuple[Tensor, Tensor]:
    """Weighted means of windows.

    Args:
        patches: ``[R, F, N, E]``, real frames first.
        weights: ``[R, F, N]``.
        is_real: ``[R, F]`` bool.
        window: Frames, rows and columns.
        temperature: Of the softmax over a window.

    Returns:
        ``[R, windows, E]`` and their mask.
    """
    side = patch_grid_side(patches.shape[2])
    frames, rows, columns = window[0], min(window[1], side), min(window[2], side)
    short = is_real.sum(dim=1) < frames
    long = max(frames, patches.shape[1] // frames * frames)
    patches, weights, is_real = (_padded(each, long) for each in (patches, weights, is_real))

    def cut(values: Tensor) -> Tensor:  # [R, F, N, ...] -> [R, windows, places of a window, ...]
        grid = values.unflatten(2, (side, side))[:, :, : side // rows * rows, : side // columns * columns]
        boxes = grid.unflatten(3, (-1, columns)).unflatten(2, (-1, rows)).unflatten(1, (-1, frames))
        # The axes are now: row, steps, frames, boxes down, rows, boxes across, columns.
        moved = boxes.movedim((1, 3, 5), (1, 2, 3))
        boxed: Tensor = moved.flatten(4, 6).flatten(1, 3)
        return boxed

    counts = cut(is_real.unsqueeze(2).expand(-1, -1, side * side).unsqueeze(3))[..., 0]  # [R, windows, places]
    scores = (cut(weights.unsqueeze(3))[..., 0] / temperature).masked_fill(~counts, -torch.inf)
    inside = scores.softmax(dim=2).nan_to_num(0.0).to(patches.dtype)
    tokens = torch.einsum("rwp,rwpe->rwe", inside, cut(patches))
    per_step = (side // rows) * (side // columns)
    first = torch.arange(tokens.shape[1], device=tokens.device) < per_step
    full = counts.all(dim=2)
    return tokens, torch.where((short & is_real.any(dim=1))[:, None], first, full)


def _padded(values: Tensor, length: int) -> Tensor:
    missing = length - values.shape[1]
    if missing <= 0:
        return values[:, :length]
    return torch.cat([values, values.new_zeros(len(values), missing, *values.shape[2:])], dim=1)


def _real_first(grids: Tensor, is_real: Tensor) -> tuple[Tensor, Tensor]:
    """Frames of shorter segments moved together."""
    order = (~is_real).byte().argsort(dim=1, stable=True)
    moved = grids.gather(1, order[:, :, None, None].expand_as(grids))
    return moved, is_real.gather(1, order)
