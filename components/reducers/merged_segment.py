"""Puts merged tokens back into a segment."""

from torch import Tensor

from components.interfaces import KeptTokens, SegmentInput
from components.merging.bipartite import MergedTokens


def with_merged_tokens(segment: SegmentInput, merged: MergedTokens, most: int) -> SegmentInput:
    """A segment with the merged tokens of every video, in the order of their places.

    Args:
        segment: The segment that was merged, a full grid; the rows of ``merged`` are its videos.
        merged: Its tokens; ``place`` is a place in the segment.
        most: Tokens P' of the result: at least the most of a video.
    """
    ordered = merged.in_order()
    tokens, index, mask = ordered.tokens[:, :most], ordered.place[:, :most], ordered.mask[:, :most]

    def at_places(values: Tensor) -> Tensor:
        return values.gather(1, index)

    kept = KeptTokens(mask, at_places(segment.token_groups), at_places(segment.token_cells))
    saliency = None if segment.saliency is None else at_places(segment.saliency)
    return segment._replace(tokens=tokens, kept=kept, saliency=saliency)
