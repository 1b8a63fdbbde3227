"""Takes the chosen tokens out of a segment."""

from torch import Tensor

from components.interfaces import KeptTokens, SegmentInput


def keep_tokens(segment: SegmentInput, chosen: Tensor, most: int) -> SegmentInput:
    """Keep the chosen tokens of every video, moved together in their order.

    Args:
        segment: The segment of every video, a full grid or reduced before.
        chosen: Which tokens to keep, ``[V, P]`` bool; False where masked.
        most: Tokens P' of the result: at least the most that are chosen of a video.

    Returns:
        The segment with P' tokens a video. Those beyond a video's chosen ones are masked.
    """
    order = (~chosen).byte().argsort(dim=1, stable=True)[:, :most]  # [V, P'], chosen ones first
    tokens = segment.tokens.gather(1, order.unsqueeze(2).expand(-1, -1, segment.tokens.shape[2]))
    fields = (chosen, segment.token_groups, segment.token_cells)
    kept = KeptTokens(*(field.gather(1, order) for field in fields))
    saliency = None if segment.saliency is None else segment.saliency.gather(1, order)
    return segment._replace(tokens=tokens, kept=kept, saliency=saliency)
