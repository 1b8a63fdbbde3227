"""The gated delta rule: how a matrix stores values under keys, and forgets."""

import torch
from torch import Tensor

_CHUNK = 64


def stored(state: Tensor, keys: Tensor, values: Tensor, log_decay: Tensor, strength: Tensor) -> Tensor:
    """The state after all tokens have been stored, one after the other.

    Token by token the state S of a head becomes ``a S + b k (v - a S' k)'``: all fades by ``a = exp(log_decay)``,
    then what is found under the key moves towards the value by the share ``b``. Tokens are computed in chunks, in which
    the corrections of the values solve a triangular system. A token with log_decay and strength 0 changes nothing, not
    even by rounding.

    Args:
        state: ``[V, heads, K, U]`` float32.
        keys: Of length 1, ``[V, heads, P, K]`` float32.
        values: ``[V, heads, P, U]`` float32.
        log_decay: At most 0, ``[V, heads, P]`` float32.
        strength: From 0 to 1, ``[V, heads, P]`` float32.

    Returns:
        As ``state``.

    Source: Gated Delta Networks (arXiv:2412.06464), in the chunked form of arXiv:2406.06484.
    """
    chunks = (each.split(_CHUNK, dim=2) for each in (keys, values, log_decay, strength))
    for key, value, decay, share in zip(*chunks, strict=True):
        faded = decay.cumsum(dim=2)  # [V, heads, C], since the chunk's start
        since = (faded[..., :, None] - faded[..., None, :]).tril().exp().tril(-1)  # from token j to the later token i
        mixing = share[..., None] * since * (key @ key.transpose(-1, -2))
        found = faded.exp()[..., None] * (key @ state)
        # Unit triangular: the diagonal of ``mixing``, which is zero, is read as one.
        corrections = torch.linalg.solve_triangular(
            mixing, share[..., None] * (value - found), upper=False, unitriangular=True
        )
        end = faded[..., -1:]
        written = (key * (end - faded).exp()[..., None]).transpose(-1, -2) @ corrections
        state = state * end.exp()[..., None] + written
    return state
