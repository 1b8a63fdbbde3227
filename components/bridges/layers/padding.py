"""Masks and padding for segments of different length; without padding the masks are left out to save work."""

import torch
from torch import Tensor


def is_known_full(mask: Tensor) -> bool:
    """Whether a mask is known to be True everywhere, so that it can be left out.

    On an accelerator the answer is always no: reading the mask would wait for all queued work, which costs more than
    the mask does.
    """
    return mask.device.type == "cpu" and bool(mask.all())


def context_mask(num_memory: int, token_mask: Tensor) -> Tensor | None:
    """Mask of a segment's tokens: the memory tokens, which are all real, followed by the patch tokens.

    Args:
        num_memory: Memory tokens M.
        token_mask: Which patch tokens are real, ``[V, P]`` bool.

    Returns:
        ``[V, M + P]`` bool, or None if all are known to be real.
    """
    if is_known_full(token_mask):
        return None
    return torch.cat([token_mask.new_ones(token_mask.shape[0], num_memory), token_mask], dim=1)


def replace_rows(chosen: Tensor, new: Tensor, old: Tensor, *, shortcut: bool) -> Tensor:
    """Rows of ``new`` where chosen, rows of ``old`` elsewhere; the shorter is padded at the end of axis 1.

    Args:
        chosen: ``[V]`` bool.
        new: ``[V, P, ...]``.
        old: ``[V, P', ...]``.
        shortcut: Return ``new`` itself if every row is known to be chosen. Then ``old`` is not in the graph, so the
            graph depends on the batch.

    Returns:
        ``[V, max(P, P'), ...]``, or ``new``.
    """
    if shortcut and is_known_full(chosen):
        return new
    length = max(new.shape[1], old.shape[1])
    return torch.where(chosen.view(-1, *[1] * (new.ndim - 1)), _pad(new, length), _pad(old, length))


def _pad(tokens: Tensor, length: int) -> Tensor:
    """Pad axis 1 with zeros (False); segments that are read one by one differ in length."""
    missing = length - tokens.shape[1]
    if missing == 0:
        return tokens
    return torch.cat([tokens, tokens.new_zeros(tokens.shape[0], missing, *tokens.shape[2:])], dim=1)
