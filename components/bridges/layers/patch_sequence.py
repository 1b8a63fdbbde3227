"""The patches of a segment as a sequence, for memories that read one patch after the other."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from components.interfaces import SegmentInput
from components.positions import interleaved_sinusoid, patch_grid_positions


class PatchSequence(NamedTuple):
    """Patches of one segment, frame after frame, row-major within a frame; padding is last."""

    tokens: Tensor  # [V, P, width]; zero where masked
    mask: Tensor  # [V, P] bool


class PatchSequenceInput(nn.Module):
    """Normalises the patches of a segment, maps them to another width and adds their positions.

    Every patch carries its row and column in the frame. It is read in the order of its place also where a reducer gives
    kept tokens in another order.

    Args:
        dim: Width D of a patch.
        width: Width that it is mapped to; divisible by 4.
        frame_positions: Add a sinusoidal code of the frame's number in its video, too. Longer videos than those of
            training then have codes that were never seen.

    Raises:
        ValueError: ``width`` is not divisible by 4.
    """

    def __init__(self, dim: int, width: int, *, frame_positions: bool) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"width must be divisible by 4, because rows and columns get codes, got {width}")
        self.width = width
        self.frame_positions = frame_positions
        self.projection = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width))

    def forward(self, segment: SegmentInput) -> PatchSequence:
        """The sequence of one segment of every video."""
        cells, groups, mask = segment.token_cells, segment.token_groups, segment.token_mask
        code = patch_grid_positions(segment.num_cells, self.width, segment.tokens.device)[cells]
        if self.frame_positions:
            code = code + interleaved_sinusoid(segment.frame_number.gather(1, groups), self.width)
        tokens = self.projection(segment.tokens) + code.to(segment.tokens.dtype)
        tokens = tokens.masked_fill(~mask[..., None], 0.0)
        if segment.kept is None:
            return PatchSequence(tokens, mask)
        places = (groups * segment.num_cells + cells).masked_fill(~mask, torch.iinfo(torch.int64).max)
        order = places.argsort(dim=1, stable=True)
        return PatchSequence(tokens.gather(1, order[..., None].expand_as(tokens)), mask.gather(1, order))
