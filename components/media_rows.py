"""Numbers the media of all conversations, where what is read of a video depends on the conversation."""

import torch
from torch import Tensor

from components.interfaces import TEXT_ONLY


def rows_of_media(video_index: Tensor) -> Tensor:
    """Give every medium of every conversation a row of its own.

    Args:
        video_index: See ``TextInputs``, ``[C, M]``.

    Returns:
        Numbers from 0 to C * M - 1 as they are counted row by row, ``[C, M]`` int64; TEXT_ONLY without a medium.
    """
    rows = torch.arange(video_index.numel(), device=video_index.device).view(video_index.shape)
    return rows.masked_fill(video_index == TEXT_ONLY, TEXT_ONLY)
