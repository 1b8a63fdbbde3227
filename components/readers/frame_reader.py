"""What readers that show whole frames share: the frames, and how they become visual tokens."""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from components.bridges.layers.projection import token_projection
from components.interfaces import SegmentInput, StateT, TokenPlaces, VisualReader, VisualTokens
from components.positions import interleaved_sinusoid
from components.type_embedding import TypeEmbedding

FrameProjection = Literal["mlp", "none"]


class FrameRun(NamedTuple):
    """Frame groups of every video, in their order."""

    tokens: Tensor  # [V, L, N, D]
    order: Tensor  # [V, L] int64, how many groups of its video were read before this one; -1 where there is none
    number: Tensor  # [V, L] int64, position in its video of the group's middle frame
    ms: Tensor  # [V, L] int64, time of that frame

    @classmethod
    def of_segment(cls, segment: SegmentInput, grid: Tensor, num_before: Tensor) -> "FrameRun":
        """The frame groups of a segment.

        Args:
            segment: The segment of every video.
            grid: Its tokens as a full grid, ``[V, L, N, D]``.
            num_before: Frame groups that were read before it, ``[V]``.
        """
        order = num_before[:, None] + segment.frame_mask.cumsum(dim=1) - 1
        return cls(grid, order.masked_fill(~segment.frame_mask, -1), segment.frame_number, segment.frame_ms)

    def with_frames(self, later: "FrameRun") -> "FrameRun":
        """These frame groups and later ones."""
        return FrameRun(*(torch.cat(field, dim=1) for field in zip(self, later, strict=True)))

    def taken(self, slots: Tensor, order: Tensor) -> "FrameRun":
        """The frame groups in these slots.

        Args:
            slots: ``[V, K]`` int64.
            order: Their ``order``, -1 where a slot is not taken, ``[V, K]`` int64.
        """
        video = torch.arange(len(slots), device=slots.device)[:, None]
        return FrameRun(self.tokens[video, slots], order, self.number[video, slots], self.ms[video, slots])


class FrameReader(VisualReader[StateT]):
    """A reader that shows whole frames, each with all its patches.

    Args:
        dim: Width D of a patch.
        out_dim: Language model width E.
        projection: ``mlp``: normalise the patches and map them through two layers to E. ``none``: show them as they
            are, where a projector of the model has already given them width E.
        frame_positions: Add a sinusoidal code of each frame's number in its video to its patches, before they are
            projected.
        type_embedding: Add a learned vector to all visual tokens, so that the language model knows them from those of
            another reader.

    Raises:
        ValueError: ``projection`` is neither of the two, patches that are not projected do not have width E, or D is
            odd but frames have positions.
    """

    def __init__(
        self, dim: int, out_dim: int, *, projection: FrameProjection, frame_positions: bool, type_embedding: bool
    ) -> None:
        super().__init__()
        if projection not in get_args(FrameProjection):
            raise ValueError(f"projection must be one of {get_args(FrameProjection)}, got {projection!r}")
        if projection == "none" and dim != out_dim:
            raise ValueError(
                f"without projection the patches must have the language model's width {out_dim}, but they have {dim}: "
                "take projection mlp, or give the model a projector"
            )
        if frame_positions and dim % 2:
            raise ValueError(f"frame_positions need an even width, got {dim}: take another width or no frame_positions")
        self.frame_positions = frame_positions
        self.projection = token_projection(dim, out_dim) if projection == "mlp" else nn.Identity()
        self.type_embedding = TypeEmbedding(out_dim) if type_embedding else None

    def shown(self, frames: FrameRun) -> VisualTokens:
        """Visual tokens of the frames whose ``order`` is not -1."""
        num_videos, num_frames, num_cells, dim = frames.tokens.shape
        mask = (frames.order >= 0).repeat_interleave(num_cells, dim=1)
        cell = torch.arange(num_cells, device=mask.device).repeat(num_frames).expand(num_videos, -1)
        number, ms = (field.repeat_interleave(num_cells, dim=1) for field in (frames.number, frames.ms))
        places = TokenPlaces(*(field.masked_fill(~mask, -1) for field in (number, cell, ms)))
        patches = frames.tokens
        if self.frame_positions:
            patches = patches + interleaved_sinusoid(frames.number, dim).to(patches.dtype)[:, :, None]
        tokens = self.projection(patches.flatten(1, 2))
        if self.type_embedding is not None:
            tokens = self.type_embedding(tokens)
        return VisualTokens(tokens, mask, places=places)
