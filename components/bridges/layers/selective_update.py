"""Decides what of a segment is remembered."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Selection(NamedTuple):
    """What the gates make of one segment."""

    admitted: Tensor  # [V] in 0..1, how much of the segment is remembered at all; outside training 0 or 1
    gate_probability: Tensor  # [V] in 0..1, what admitting costs in training
    share: Tensor  # [V, M, D] in 0..1, how much of what the segment wrote replaces the lasting memory

    def whole(self) -> "Selection":
        """The segment admitted whole and for nothing, with the gates in the graph.

        A parameter that some batch leaves out of the graph would stop a run under DDP and ZeRO.
        """
        gate_probability = 0.0 * (
            self.gate_probability + self.share.flatten(1).mean(dim=1)
        )  # the one that every readout's loss comes by
        return Selection(0.0 * self.admitted + 1.0, gate_probability, 0.0 * self.share + 1.0)


class SelectiveUpdate(nn.Module):
    """One gate for the whole segment, which can close, and open, completely, and one for every token and channel.

    The first decides whether anything happened that matters. It closes completely: what a sigmoid lets in of every
    uneventful segment adds up over hundreds of them, however little it is. It is one gate for all channels, for of
    hundreds of gates some are always a little open. One patch is enough to open it: an average over a segment hides
    what one of its patches shows. The second, an ordinary sigmoid, decides which part of the memory changes.

    In training the first gate is drawn at random, open with the probability that its logit tells. Without
    that, a segment that matters need be admitted no more than by a hair, since what follows is normalised, and one that
    does not matter lies just as little on the other side; what training never saw then falls on either side. Noise
    drives the two apart. Outside training the gate is open where training would open it in 95 of 100 draws: what lies
    between is what training never saw, and one uneventful segment in fifty that is let in fills a long video's memory.

    Args:
        dim: Width D.

    Source: the hard concrete distribution (arXiv:1712.01312).
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
        admitted = _draw(logit) if self.training else (logit > _CERTAIN).to(logit.dtype)
        share = admitted[:, None, None] * torch.sigmoid(self.channel(compared))
        return Selection(admitted, torch.sigmoid(logit), share)


def _draw(logit: Tensor) -> Tensor:
    """Draw from the hard concrete distribution: mostly 0 or 1, seldom between, with a gradient to the logit."""
    uniform = torch.rand_like(logit, dtype=torch.float32).clamp(_LEAST, 1.0 - _LEAST)
    concrete = torch.sigmoid((logit + uniform.logit().to(logit.dtype)) / _TEMPERATURE)
    return (concrete * (1.0 + 2.0 * _STRETCH) - _STRETCH).clamp(0.0, 1.0)


# As in the source: how far the sigmoid is stretched beyond 0 and 1 before it is cut off there, and its temperature.
_STRETCH = 0.1
_TEMPERATURE = 2.0 / 3.0
# Logit from which on a segment is admitted outside training: chance 0.95.
_CERTAIN = 3.0
# Keeps the noise finite.
_LEAST = 1e-6
# Logit where there is no patch to look at: finite, so that its gradient is too.
_NO_PATCH = -1e4
# Most of a remembered segment replaces what was there, at the start of training.
_FIRST_CHANNEL_LOGIT = 1.0
