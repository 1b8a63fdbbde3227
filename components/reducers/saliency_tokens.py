"""Keeps the patches that matter most to their frame, by what the encoder's attention says of them."""

from typing import Literal, get_args

import torch
from torch import Tensor

from components.interfaces import SegmentInput, SegmentReducer
from components.reducers.token_choice import keep_tokens

Budget = Literal["equal", "shared"]


class SaliencyTokens(SegmentReducer[tuple[()]]):
    """Keeps the most salient patches, unchanged and in order.

    How salient a patch is, the encoder tells (its option ``saliency_layer``): how much its class token attends to the
    patch. The number of tokens that are kept does not depend on the video, so nothing waits for the device.

    Args:
        dim: Width of a patch, D; it stays.
        rate: Share of the patches that is kept, rounded down to a whole number, but at least one.
        budget: ``equal``: each frame keeps this share of its own patches. ``shared``: the frames of a segment share the
            tokens: a frame gets as many as it has among the segment's most salient patches, in proportion. A frame with
            none of these keeps nothing. Shares are rounded down, so that a segment may keep a few tokens fewer.
        contest: With ``shared``, the share of the segment's patches that counts as its most salient ones.

    Raises:
        ValueError: ``rate`` or ``contest`` is not above 0 and at most 1, or ``budget`` is neither of the two.

    Source: ``equal`` as FasterVLM (arXiv:2412.01818), Theia-4869/FasterVLM (Apache-2.0), ``llava_arch.py``, commit
    f5d5f12. ``shared`` as HiRED (arXiv:2408.10945), hasanar1f/HiRED (MIT), ``modeling_llava_next.py``, commit 502d6dd,
    where ``rate`` is 0.2 and ``contest`` 0.5. HiRED shares between the tiles of a picture, here between the frames of a
    segment; it takes the shares from an early layer of the encoder and the patches from a late one, here both are from
    ``saliency_layer``.
    """

    reads_saliency = True

    def __init__(self, dim: int, *, rate: float = 0.25, budget: Budget = "equal", contest: float = 0.5) -> None:
        super().__init__()
        for name, value in (("rate", rate), ("contest", contest)):
            if not 0.0 < value <= 1.0:
                raise ValueError(f"{name} must be above 0 and at most 1, got {value}")
        if budget not in get_args(Budget):
            raise ValueError(f"budget must be one of {get_args(Budget)}, got {budget!r}")
        self.out_dim = dim
        self.rate = rate
        self.budget = budget
        self.contest = contest

    def forward(self, segment: SegmentInput, state: tuple[()] | None) -> tuple[SegmentInput, tuple[()]]:
        """Keep tokens of one segment of every video; see ``SegmentReducer.forward``.

        Raises:
            ValueError: Another reducer has left tokens out before, or there is no saliency.
        """
        _, length, num_cells, _ = segment.grid(self).shape
        if segment.saliency is None:
            raise ValueError("SaliencyTokens needs the saliency of patches: set the encoder's saliency_layer")
        saliency = segment.saliency.detach().view(-1, length, num_cells)
        saliency = saliency.masked_fill(~segment.frame_mask.unsqueeze(2), -torch.inf)
        each = max(1, _floor(num_cells * self.rate))
        if self.budget == "equal":
            budgets = torch.full_like(segment.frame_number, each)
            most = length * each
        else:
            budgets = shared_budgets(saliency, segment.frame_mask, self.rate, self.contest)
            most = max(1, _floor(length * num_cells * self.rate))
        chosen = (_rank(saliency) < budgets.unsqueeze(2)) & segment.frame_mask.unsqueeze(2)
        return keep_tokens(segment, chosen.flatten(1), most), ()


def shared_budgets(saliency: Tensor, frame_mask: Tensor, rate: float, contest: float) -> Tensor:
    """Share the tokens of a segment between its frames.

    Args:
        saliency: Saliency of every patch, ``[V, L, N]``; -inf in masked frames.
        frame_mask: Real frames, ``[V, L]`` bool.
        rate: Share of all patches that is kept.
        contest: Share of all patches that counts as most salient.

    Returns:
        Tokens of each frame, ``[V, L]`` int64, at most N: together at most ``rate`` of all, but at least one.
    """
    num_cells = saliency.shape[2]
    num_patches = frame_mask.sum(dim=1, keepdim=True) * num_cells  # [V, 1]
    top = _floor_of(num_patches * contest).clamp(min=1)
    wins = (_rank(saliency.flatten(1)) < top).view_as(saliency).sum(dim=2) * frame_mask  # [V, L]
    total = _floor_of(num_patches * rate).clamp(min=1)
    budgets = _floor_of(wins.double() / wins.sum(dim=1, keepdim=True).clamp(min=1) * total).clamp(max=num_cells)
    winner = torch.nn.functional.one_hot(wins.argmax(dim=1), frame_mask.shape[1])
    return torch.where(budgets.any(dim=1, keepdim=True), budgets, winner) * frame_mask


def _rank(values: Tensor) -> Tensor:
    """Place of each value among those of its last dimension, 0 for the largest; of equal ones the first comes first."""
    return values.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)


def _floor(value: float) -> int:
    return int(value + 1e-6)  # 100 * 0.29 is 28.999... in floating point


def _floor_of(values: Tensor) -> Tensor:
    return (values.double() + 1e-6).floor().long()
