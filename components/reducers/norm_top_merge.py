"""Keeps the longest patch vectors of every frame, and averages those that are alike."""

import torch
from torch import Tensor
from torch.nn import functional

from components.full_precision import full_precision
from components.interfaces import SegmentInput, SegmentReducer
from components.reducers.token_choice import keep_tokens


class NormTopMerge(SegmentReducer[tuple[()]]):
    """Keeps the patches of largest norm of every frame, and makes one of those that are alike.

    The patches of a frame are taken in the order of their norms. Each becomes the mean of itself and of all later ones
    that are similar to it and not yet in another mean. It stays where it was in the frame. How many are left depends on
    the patches, so the program waits for the device once a segment.

    Args:
        dim: Width of a patch, D; it stays.
        rate: Share of the patches of a frame that is looked at, rounded down to a whole number, but at least one.
        threshold: Patches with at least this cosine similarity are averaged; above 1 none are.
        as_published: Compute as the published code: a mean also has the similar patches that are in another mean
            already, and a patch that is similar to one of these is lost.

    Raises:
        ValueError: ``rate`` is not above 0 and at most 1.

    Source: D-CoDe (arXiv:2510.08818), hukcc/D-CoDe (Apache-2.0), ``Dcode.py: token_select_and_merge,
    _merge_similar_tokens``, commit e4436b5, with 288 of 576 patches and threshold 0.8. It keeps the order of the norms;
    here the order is that of the frame.
    """

    def __init__(self, dim: int, *, rate: float = 0.5, threshold: float = 0.8, as_published: bool = False) -> None:
        super().__init__()
        if not 0.0 < rate <= 1.0:
            raise ValueError(f"rate must be above 0 and at most 1, got {rate}")
        self.out_dim = dim
        self.rate = rate
        self.threshold = threshold
        self.as_published = as_published

    def forward(self, segment: SegmentInput, state: tuple[()] | None) -> tuple[SegmentInput, tuple[()]]:
        """Merge tokens of one segment of every video; see ``SegmentReducer.forward``.

        Raises:
            ValueError: Another reducer has left tokens out before.
        """
        grid = segment.grid(self)  # [V, L, N, D]
        num_cells = grid.shape[2]
        most = max(1, int(num_cells * self.rate + 1e-6))
        frames = grid.flatten(0, 1)
        order = frames.detach().float().norm(dim=2).argsort(dim=1, descending=True, stable=True)[:, :most]  # [F, K]
        longest = frames.gather(1, order.unsqueeze(2).expand(-1, -1, frames.shape[2]))
        shares = shares_of_means(longest.detach(), self.threshold, as_published=self.as_published)
        with full_precision(frames.device):
            means = (shares @ longest.float()).to(frames.dtype)
        merged = frames.scatter(1, order.unsqueeze(2).expand_as(means), means)
        is_mean = torch.zeros(frames.shape[:2], dtype=torch.bool, device=frames.device)
        chosen = is_mean.scatter(1, order, shares.any(dim=2)).view_as(segment.token_mask) & segment.token_mask
        num_kept = len(chosen[0]) if chosen.is_meta else max(1, int(chosen.sum(dim=1).max()))
        return keep_tokens(segment._replace(tokens=merged.view_as(segment.tokens)), chosen, num_kept), ()


def shares_of_means(tokens: Tensor, threshold: float, *, as_published: bool = False) -> Tensor:
    """Find which tokens are averaged.

    Args:
        tokens: Tokens of F frames in their order, ``[F, K, D]``.
        threshold: See ``NormTopMerge``.
        as_published: See ``NormTopMerge``.

    Returns:
        Share of every token in every mean, ``[F, K, K]`` float32: row i is the mean that stands for token i; zeros
        where token i is in another mean, or lost.
    """
    normed = functional.normalize(tokens.float(), dim=2)
    with full_precision(tokens.device):
        similarity = normed @ normed.mT
    alike = (similarity >= threshold) | torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
    left = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    means = []
    for number, similar in enumerate(alike.unbind(1)):
        stands = left[:, number]
        if as_published:
            means.append(similar & (stands & ~similar[:, :number].any(dim=1)).unsqueeze(1))
            keeps = similar.long().argmax(dim=1, keepdim=True)  # the first of them, even where it is in another mean
            gone = similar.scatter(1, keeps, False)
        else:
            means.append(similar & left & stands.unsqueeze(1))
            gone = similar
        left = left & ~(gone & stands.unsqueeze(1))
    shares = torch.stack(means, dim=1).float()
    return shares / shares.sum(dim=2, keepdim=True).clamp(min=1)
