"""Which frame of the video every stored token is of."""

from typing import NamedTuple

import torch
from torch import Tensor

from components.interfaces import StoredTokens


class StoredFrames(NamedTuple):
    """The frames of which tokens are stored, counted from 0 in the order of time."""

    of_token: Tensor  # [V, P] int64, frame of every token; 0 where masked
    number: Tensor  # [V] int64, frames T of every video


def stored_frames(stored: StoredTokens) -> StoredFrames:
    """Count the frames of every video of which a token is stored."""
    largest = torch.iinfo(torch.int64).max
    frame, order = stored.places.frame.masked_fill(~stored.mask, largest).sort(dim=1, stable=True)
    is_new = torch.cat([torch.ones_like(frame[:, :1], dtype=torch.bool), frame[:, 1:] != frame[:, :-1]], dim=1)
    is_new &= frame < largest
    rank = (is_new.cumsum(dim=1) - 1).clamp(min=0)
    of_token = torch.zeros_like(rank).scatter(1, order, rank)
    return StoredFrames(of_token.masked_fill(~stored.mask, 0), is_new.sum(dim=1))


def ranks_of(is_real: Tensor) -> Tensor:
    """Number of every real frame among the real ones before it, ``[V, F]`` int64; any number where masked."""
    return (is_real.cumsum(dim=1) - 1).clamp(min=0)
