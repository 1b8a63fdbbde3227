"""A reader that stores all tokens of a video."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from components.interfaces import (
    Questions,
    SegmentInput,
    StoredTokens,
    TokenPlaces,
    TokenReadout,
    VisualReader,
    VisualTokens,
)
from components.readers.readouts.project_all import ProjectAll


class StoredSegment(NamedTuple):
    """The tokens of one segment; see ``StoredTokens``."""

    tokens: Tensor
    mask: Tensor
    places: TokenPlaces


class TokenStoreState(NamedTuple):
    """What is stored after some segments."""

    segments: tuple[StoredSegment, ...]  # one after the other
    cells: Tensor  # [V, N] int64, the cells of a frame's grid


class TokenStore(VisualReader[TokenStoreState]):
    """Stores every token that it reads and gives all of them to a readout.

    With the readout ``ProjectAll`` the language model sees the complete video: the usual video language model without
    memory. Most methods that keep fewer tokens were published on such a model; a ``SegmentReducer`` or a frame
    selection makes the tokens fewer here. The memory grows with the video. How the video is cut into segments changes
    nothing.

    Args:
        dim: Width D of the tokens.
        out_dim: Language model width E.
        readout: Builds from D and E what turns the stored tokens into visual tokens.
        max_tokens: Most tokens of a video; a longer one is refused before memory runs out. None for no limit.

    Raises:
        ValueError: ``max_tokens`` is not positive.

    Source: the form of LLaVA-OneVision (arXiv:2408.03326), Tarsier (arXiv:2407.00634) and others: the projected tokens
    of all frames, without memory.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        readout: Callable[[int, int], TokenReadout] = ProjectAll,
        max_tokens: int | None = None,
    ) -> None:
        super().__init__()
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1 or null for no limit, got {max_tokens}")
        self.max_tokens = max_tokens
        self.readout = readout(dim, out_dim)
        self.reads_questions = self.readout.reads_questions
        self.reads_kept_tokens = self.readout.reads_kept_tokens
        self.is_elastic = self.readout.is_elastic

    def forward(self, segment: SegmentInput, state: TokenStoreState | None) -> TokenStoreState:
        """Store the tokens of one segment of every video; see ``VisualReader.forward``.

        Raises:
            ValueError: A video has more than ``max_tokens`` tokens now, or a reducer has left tokens out and the
                readout reads full grids.
        """
        if not self.reads_kept_tokens:
            segment.grid(self)  # refuses kept tokens
        added = StoredSegment(segment.tokens, segment.token_mask, segment.places())
        if state is None:
            cells = torch.arange(segment.num_cells, device=segment.tokens.device)
            stored = TokenStoreState((added,), cells.expand(len(segment.tokens), -1))
        else:
            stored = TokenStoreState((*state.segments, added), state.cells)
        self._refuse_too_many(stored)
        return stored

    def read(
        self, state: TokenStoreState, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Give all tokens to the readout; see ``VisualReader.read``.

        Raises:
            ValueError: There is a budget, which the readout does not take.
        """
        if budget is not None and not self.is_elastic:
            raise ValueError(
                f"{type(self.readout).__name__} gives as many visual tokens as it gives, so it takes no budget: leave "
                "the budget out, or take an elastic readout"
            )
        visual: VisualTokens = self.readout(_joined(state), questions, budget=budget)
        return visual

    def written(self, segment: SegmentInput, state: TokenStoreState) -> VisualTokens:
        """Visual tokens of the segment's own tokens, where the readout reads each token alone."""
        if not self.readout.is_tokenwise:
            return super().written(segment, state)
        visual: VisualTokens = self.readout(_tokens_of(segment))
        return visual

    def _refuse_too_many(self, state: TokenStoreState) -> None:
        num_slots = sum(each.mask.shape[1] for each in state.segments)
        if self.max_tokens is None or num_slots <= self.max_tokens:
            return
        # Only now: reading the masks would make the host wait for the device in every step.
        most = int(torch.stack([each.mask.sum(dim=1) for each in state.segments]).sum(dim=0).max())
        if most > self.max_tokens:
            raise ValueError(
                f"a video has {most} tokens or more, but max_tokens of TokenStore is {self.max_tokens}: read fewer "
                "frames (frame_selection, or the frames of the data), pool their patches (patch_pooling), leave tokens "
                "out (reducer), or raise max_tokens if the language model and the memory have room for them"
            )


def _tokens_of(segment: SegmentInput) -> StoredTokens:
    return StoredTokens(segment.tokens, segment.token_mask, segment.places(), segment.num_cells)


def _joined(state: TokenStoreState) -> StoredTokens:
    """The tokens of all segments, one after the other."""
    tokens, masks, places = zip(*state.segments, strict=True)
    joined = TokenPlaces(*(_side_by_side(field) for field in zip(*places, strict=True)))
    return StoredTokens(_side_by_side(tokens), _side_by_side(masks), joined, state.cells.shape[1])


def _side_by_side(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
