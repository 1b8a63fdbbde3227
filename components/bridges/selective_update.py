"""Decides what of a segment is remembered."""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  the name every torch user knows
from torch import Tensor, nn


class Selection(NamedTuple):
    """What the gates make of one segment."""

    admitted: Tensor  # [V] in 0..1, how much of the segment is remembered at all; exactly 0 where it is not
    price: Tensor  # [V] at least 0, what admitting costs in training
    share: Tensor  # [V, M, D] in 0..1, how much of what the segment wrote replaces the lasting memory

    def whole(self) -> "Selection":
        """The segment admitted whole and for nothing, with the gates in the graph.

        A parameter that some batch leaves out of the graph would stop a run under DDP and ZeRO.
        """
        return Selection(0.0 * self.admitted + 1.0, 0.0 * self.price, 0.0 * self.share + 1.0)


class SelectiveUpdate(nn.Module):
    """One gate for the whole segment, which can close, and open, completely, and one for every token and channel.

    The first decides whether anything happened that matters. It is a sigmoid stretched beyond 0 and 1 and cut off
    there: a plain sigmoid never closes, and what it lets in of every uneventful segment adds up over hundreds of them,
    however little it is. It is one gate for all channels, for of hundreds of gates some are always a little open. One
    patch is enough to open it: an average over a segment hides what one of its patches shows. The second, an ordinary
    sigmoid, decides which part of the memory changes.

    The price pushes the first gate further down than where it closes, so that what training never saw stays out too.

    Args:
        dim: Width D.

    Source: the stretching is that of the hard concrete distribution (arXiv:1712.01312), without its noise.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.compare = nn.Sequential(nn.LayerNorm(2 * dim), nn.Linear(2 * dim, dim), nn.GELU())
        self.of_memory = nn.Linear(dim, 1)
        last = nn.Linear(dim, 1)
        self.of_patch = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), last)
        self.channel = nn.Linear(dim, dim)
        for layer, bias in ((self.of_memory, 0.0), (last, 0.0), (self.channel, _FIRST_CHANNEL_LOGIT)):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, bias)

    def forward(self, lasting: Tensor, written: Tensor, patches: Tensor, patch_mask: Tensor) -> Selection:
        """Weigh what a segment wrote against what was there.

        Args:
            lasting: Memory before the segment, ``[V, M, D]``.
            written: Memory tokens as the segment leaves them, ``[V, M, D]``.
            patches: The segment's patch tokens as they enter the bridge, ``[V, P, D]``.
            patch_mask: Which of them are real, ``[V, P]`` bool; a video without any admits nothing.
        """
        compared = self.compare(torch.cat([lasting, written], dim=-1))
        salience = self.of_patch(patches).squeeze(2).masked_fill(~patch_mask, _NO_PATCH).amax(dim=1)
        logit = salience + self.of_memory(compared.mean(dim=1)).squeeze(1)
        admitted = (torch.sigmoid(logit) * (1.0 + 2.0 * _STRETCH) - _STRETCH).clamp(0.0, 1.0)
        share = admitted[:, None, None] * torch.sigmoid(self.channel(compared))
        return Selection(admitted, F.softplus(logit + _MARGIN), share)


# How far the sigmoid is stretched beyond 0 and 1; the gate closes at a logit of -2.4.
_STRETCH = 0.1
# How far below zero a logit still costs something.
_MARGIN = 3.0
# Logit where there is no patch to look at: finite, so that its gradient is too.
_NO_PATCH = -1e4
# Most of a remembered segment replaces what was there, at the start of training.
_FIRST_CHANNEL_LOGIT = 1.0
