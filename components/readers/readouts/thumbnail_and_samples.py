"""A collage of a few frames, and tokens sampled from the whole video."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from components.bridges.layers.projection import token_projection
from components.interfaces import Questions, StoredTokens, TokenReadout, VisualTokens
from components.positions import patch_grid_side
from components.readers.readouts.stored_frames import ranks_of


class ThumbnailAndSamples(TokenReadout):
    """Shows tokens that are evenly sampled from all frames, and then a collage of a few frames as one grid.

    The collage is made of features: each of its frames is pooled to its place in a grid of the size of one frame.

    Args:
        dim: Width D of the patches.
        out_dim: Language model width E.
        frames: Frames of the collage; a video with fewer repeats some.
        samples: Sampled tokens; a video with fewer tokens shows each once.

    Raises:
        ValueError: A number is not positive.

    Source: TS-LLaVA (arXiv:2411.11066), tingyu215/TS-LLaVA (Apache-2.0), ``llava_arch.py: create_image_grid,
    sample_tokens``, commit 03cdeae, with 6 frames and 2,880 samples. There the collage is a picture that the encoder
    reads; here the encoder never saw it, so that cached features can be used.
    """

    reads_kept_tokens = False

    def __init__(self, dim: int, out_dim: int, *, frames: int = 6, samples: int = 2880) -> None:
        super().__init__()
        if min(frames, samples) < 1:
            raise ValueError(f"frames and samples must be at least 1, got {frames} and {samples}")
        self.frames = frames
        self.samples = samples
        self.projection = token_projection(dim, out_dim)

    def forward(
        self, stored: StoredTokens, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Sample and tile: ``[V, samples + N, E]``, of short videos fewer samples."""
        grids, is_real = stored.frames()
        sampled, mask = evenly_sampled(grids, is_real, self.samples)
        collage = collage_of(grids, is_real, self.frames)
        tokens = self.projection(torch.cat([sampled, collage], dim=1))
        return VisualTokens(tokens, torch.cat([mask, mask.new_ones(collage.shape[:2])], dim=1))


def evenly_sampled(grids: Tensor, is_real: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Tokens at ``round(linspace(0, tokens - 1, number))`` of every video, frame by frame.

    Args:
        grids: Patches, ``[V, F, N, D]``.
        is_real: Real frames, ``[V, F]`` bool.
        number: Tokens to sample.

    Returns:
        ``[V, n, D]`` and their mask, n at most ``number``; a video with fewer tokens has each once.
    """
    num_cells = grids.shape[2]
    total = is_real.sum(dim=1, keepdim=True) * num_cells  # [V, 1]
    width = min(number, grids.shape[1] * num_cells)
    step = torch.arange(width, device=grids.device)
    share = step.double() / max(number - 1, 1)
    place = torch.where(total <= number, step, (share * (total - 1)).round().long())
    place = torch.minimum(place, (total - 1).clamp(min=0))
    order = (~is_real).byte().argsort(dim=1, stable=True)  # real frames first
    index = order.gather(1, place // num_cells) * num_cells + place % num_cells
    flat = grids.flatten(1, 2)
    sampled = flat.gather(1, index.unsqueeze(2).expand(-1, -1, flat.shape[2]))
    return sampled, step < total.clamp(max=number)


def collage_of(grids: Tensor, is_real: Tensor, number: int) -> Tensor:
    """Evenly spread frames, tiled row by row into one grid of the size of a frame, ``[V, N, D]``."""
    side = patch_grid_side(grids.shape[2])
    rows, columns = most_square(min(number, side * side))
    length = is_real.sum(dim=1, keepdim=True).clamp(min=1)
    places = torch.arange(rows * columns, device=grids.device).double() / max(rows * columns - 1, 1)
    wanted = (places * (length - 1)).round().long()  # [V, rows * columns]
    same = (ranks_of(is_real)[:, None] == wanted[..., None]) & is_real[:, None]  # [V, k, F]
    frames = torch.einsum("vkf,vfnd->vknd", same.to(grids.dtype), grids)
    planes = frames.flatten(0, 1).mT.unflatten(2, (side, side))
    heights, widths = _shares(side, rows), _shares(side, columns)
    tiled = []
    for row, height in enumerate(heights):
        line = []
        for column, width in enumerate(widths):
            chosen = planes.unflatten(0, (-1, rows * columns))[:, row * columns + column]
            line.append(functional.adaptive_avg_pool2d(chosen, (height, width)))
        tiled.append(torch.cat(line, dim=3))
    return torch.cat(tiled, dim=2).flatten(2).mT


def most_square(number: int) -> tuple[int, int]:
    """Rows and columns of the most square grid of so many tiles, with at least as many rows as columns."""
    columns = next(each for each in range(math.isqrt(number), 0, -1) if number % each == 0)
    return number // columns, columns


def _shares(side: int, parts: int) -> list[int]:
    """A side cut into parts that are as equal as possible."""
    return [(part + 1) * side // parts - part * side // parts for part in range(parts)]
