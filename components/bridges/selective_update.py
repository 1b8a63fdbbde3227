"""Decides how much of what a segment wrote enters the lasting memory."""

import torch
from torch import Tensor, nn


class SelectiveUpdate(nn.Module):
    """A gate for every memory token and channel that can close, and open, completely.

    The gate is a sigmoid stretched beyond 0 and 1 and cut off there. A plain sigmoid never closes: what it lets in of
    every uneventful segment adds up over hundreds of them, however little it is. Cut off, an uneventful segment
    changes nothing at all, and a memory is the same after two segments or two hundred.

    Args:
        dim: Width D.

    Source: the gate of the hard concrete distribution (arXiv:1712.01312), without its noise.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        last = nn.Linear(dim, dim)
        self.openness = nn.Sequential(nn.LayerNorm(2 * dim), nn.Linear(2 * dim, dim), nn.GELU(), last)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, _FIRST_OPENNESS)

    def forward(self, lasting: Tensor, written: Tensor) -> Tensor:
        """Weigh what was written against what was there.

        Args:
            lasting: Memory before the segment, ``[V, M, D]``.
            written: Memory tokens as the segment leaves them, ``[V, M, D]``.

        Returns:
            The share of ``written`` that enters, ``[V, M, D]`` in 0..1.
        """
        logit = self.openness(torch.cat([lasting, written], dim=-1))
        stretched: Tensor = torch.sigmoid(logit) * (1.0 + 2.0 * _STRETCH) - _STRETCH
        return stretched.clamp(0.0, 1.0)


# How far the sigmoid is stretched beyond 0 and 1.
_STRETCH = 0.1
# Logit at the start of training: the gate lets a little in, so that it can learn when to let in more.
_FIRST_OPENNESS = -1.5
