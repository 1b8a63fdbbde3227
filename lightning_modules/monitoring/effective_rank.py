"""Computes how many directions a set of tokens spans."""

import torch
from torch import Tensor


def effective_rank(tokens: Tensor) -> Tensor:
    """Effective number of directions that tokens span.

    The exponential of the entropy of the squared singular values, normalised to sum to 1: 1 where all tokens are
    equal, M where M tokens are orthogonal and of one length.

    Args:
        tokens: Such as a memory, ``[..., M, D]``.

    Returns:
        Effective rank, ``[...]`` float64.

    Raises:
        ValueError: All tokens of a row are zero, which span nothing.

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007, there of the singular values themselves.
    """
    exact = tokens.double()
    # The squared singular values are the eigenvalues of the tokens' products with each other: M x M instead of M x D.
    energy = torch.linalg.eigvalsh(exact @ exact.mT).clamp(min=0.0)
    total = energy.sum(dim=-1, keepdim=True)
    if not bool((total > 0).all()):
        raise ValueError(f"tokens of shape {list(tokens.shape)} hold only zeros (or NaN) in a row, so it has no rank")
    shares = energy / total
    rank: Tensor = torch.special.entr(shares).sum(dim=-1).exp()
    return rank
