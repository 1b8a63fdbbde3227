"""Makes the tokens of segments of different length stack."""

import torch
from torch import Tensor


def pad_tokens(tokens: Tensor, length: int) -> Tensor:
    """Pad axis 1 with zeros (False) to at least ``length``; segments that are read one by one differ in length.

    Args:
        tokens: ``[V, P, ...]``.
        length: Tokens wanted.

    Returns:
        ``[V, max(P, length), ...]``.
    """
    missing = length - tokens.shape[1]
    if missing <= 0:
        return tokens
    return torch.cat([tokens, tokens.new_zeros(tokens.shape[0], missing, *tokens.shape[2:])], dim=1)
