"""What VideoScan's language model reads while training, and which entries of its cache stay."""

import torch
from torch import Tensor

from components.bridges.carrier_memory import frame_carriers


def with_appended_carriers(tokens: Tensor, num_frames: int) -> Tensor:
    """The tokens of a video with each frame's carrier after them, as the published model reads them while training.

    Args:
        tokens: ``[P, D]``. P is divided by the number of frames and rounded down; tokens that are left over form one
            more frame, such as a newline at the end.
        num_frames: Frames of the video.
    """
    chunks = tokens.split(max(1, len(tokens) // num_frames))
    return torch.cat([torch.cat([chunk, frame_carriers(chunk)[None]]) for chunk in chunks])


def cache_entries(
    sizes: tuple[int, int, int, int], dropped: tuple[int, ...] = (), attention: Tensor | None = None, num_more: int = 0
) -> Tensor:
    """Which entries of a cache stay after a frame: the system prompt, the past carriers and this frame's carrier.

    The order of the entries is system prompt, past carriers, the frame, its carrier, the query.

    Args:
        sizes: Entries of the system prompt, of the query, of the frame with its carrier, and past carriers.
        dropped: Past carriers that go.
        attention: Attention of the carrier to the tokens of its frame, ``[H, N]``; only where more of them stay.
        num_more: Tokens of each frame that stay too: those with the highest attention.
    """
    system, _, current, past = sizes
    before = system + past * (1 + num_more)
    left = [entry for entry in range(before) if entry - system not in dropped]
    more = torch.empty(0, dtype=torch.int64)
    if attention is not None:
        more = before + attention.mean(dim=0).topk(num_more).indices.sort().values
    carrier = before + current - 1
    return torch.cat([torch.tensor(left, dtype=torch.int64), more, torch.tensor([carrier])])
