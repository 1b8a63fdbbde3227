"""Merges similar tokens by bipartite matching: every other token may join the most similar of those between them."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from components.full_precision import full_precision


class MergedTokens(NamedTuple):
    """Tokens of B rows, the real ones first."""

    tokens: Tensor  # [B, P, D]
    sizes: Tensor  # [B, P] float32, tokens that each stands for
    place: Tensor  # [B, P] int64, place before the first merge of the token whose place it takes
    num_real: Tensor  # [B] int64, real tokens of each row

    @classmethod
    def of_tokens(cls, tokens: Tensor, count: Tensor) -> "MergedTokens":
        """Tokens of which none is merged yet."""
        index = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
        return cls(tokens, torch.ones(tokens.shape[:2], device=tokens.device), index, count)

    @property
    def mask(self) -> Tensor:
        """Real tokens, ``[B, P]`` bool."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) < self.num_real[:, None]

    def in_order(self) -> "MergedTokens":
        """The same tokens sorted by their places."""
        largest = torch.iinfo(torch.int64).max
        order = self.place.masked_fill(~self.mask, largest).argsort(dim=1, stable=True)
        return self._replace(
            tokens=self.tokens.gather(1, order.unsqueeze(2).expand_as(self.tokens)),
            sizes=self.sizes.gather(1, order),
            place=self.place.gather(1, order),
        )


def merge_similar(before: MergedTokens, number: Tensor, *, heads: int = 1, weighted: bool = True) -> MergedTokens:
    """Merge some tokens of every row into others.

    The tokens at even places are sources, those at odd places are targets. Each source has the target that is most
    similar to it; the sources with the largest similarities join their targets.

    Args:
        before: The tokens.
        number: Sources that join, ``[B]`` int64; at most half of the real tokens do.
        heads: Tokens are compared by the mean of this many equal parts of their vector, as published.
        weighted: Whether a token counts by the number of tokens that it stands for.

    Returns:
        As many places as before. First the sources that did not join, the most similar first, then the targets.

    Source: ToMe (arXiv:2210.09461). Choices are made without gradient; of equal ones the first wins.
    """
    tokens, real = before.tokens, before.mask
    width = tokens.shape[1]
    metric = tokens.detach().float().unflatten(2, (heads, -1)).mean(dim=2)
    metric = functional.normalize(metric, dim=2)
    is_source = torch.arange(width, device=tokens.device) % 2 == 0
    with full_precision(tokens.device):
        scores = metric[:, 0::2] @ metric[:, 1::2].mT  # [B, sources, targets]
    scores = scores.masked_fill(~real[:, None, 1::2] | ~real[:, 0::2, None], -torch.inf)
    if scores.shape[2] == 0:
        return before
    best, target = scores.max(dim=2)
    rank = best.argsort(dim=1, descending=True, stable=True).argsort(dim=1)  # [B, sources]
    joins = (rank < torch.minimum(number, before.num_real // 2)[:, None]) & real[:, 0::2]
    weights = before.sizes if weighted else torch.ones_like(before.sizes)
    into = functional.one_hot(target, scores.shape[2]) * joins.unsqueeze(2)  # [B, sources, targets]
    moved = into * weights[:, 0::2].unsqueeze(2)
    total = weights[:, 1::2] + moved.sum(dim=1)
    with full_precision(tokens.device):
        summed = tokens[:, 1::2].float() * weights[:, 1::2].unsqueeze(2) + moved.mT @ tokens[:, 0::2].float()
    targets = (summed / total.unsqueeze(2)).to(tokens.dtype)
    merged = torch.empty_like(tokens)
    merged[:, 0::2], merged[:, 1::2] = tokens[:, 0::2], targets
    sizes = before.sizes.clone()
    sizes[:, 1::2] = sizes[:, 1::2] + (into * before.sizes[:, 0::2].unsqueeze(2)).sum(dim=1)
    # Sources that stay come first by falling similarity, then the targets; what joined and padding come last.
    places = torch.arange(width, device=tokens.device).expand(len(tokens), -1)
    key = torch.where(is_source, torch.zeros_like(places), width + places)
    key[:, 0::2] = torch.where(joins, 3 * width, rank)
    key = torch.where(number[:, None] > 0, key.masked_fill(~real, 3 * width), places)  # or the row stays as it is
    order = key.argsort(dim=1, stable=True)
    return MergedTokens(
        merged.gather(1, order.unsqueeze(2).expand_as(merged)),
        sizes.gather(1, order),
        before.place.gather(1, order),
        before.num_real - joins.sum(dim=1),
    )


def merged_to(before: MergedTokens, wanted: Tensor, *, heads: int = 1, weighted: bool = True) -> MergedTokens:
    """Halve the tokens of every row until they are as few as wanted.

    Args:
        before: The tokens.
        wanted: Tokens of each row afterwards, ``[B]`` int64, at least 1; rows that have no more stay as they are.
        heads: See ``merge_similar``.
        weighted: See ``merge_similar``.
    """
    merged = before
    most = before.tokens.shape[1]  # real tokens of the fullest row, at most; halved each time until one is left
    while most > 1:
        merged = merge_similar(merged, (merged.num_real - wanted).clamp(min=0), heads=heads, weighted=weighted)
        most = (most + 1) // 2
    return merged
