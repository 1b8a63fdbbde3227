"""The published bridge, computed as in its code: one video at a time, with eager attention and all its extra work.

It takes the weights of a ``VideoLLaMBBridge`` and gives the same numbers. As in the published code, all frames of the
video are pooled although at most 8 of each segment are read; attention scores are stored; the tokens of every segment
go through the complete layer and the projection although the language model gets only the last ones; memory is
retrieved once more after the last segment; and depth scores are computed in a loop over single numbers.

Source: VideoLLaMB (arXiv:2409.01071) and its code, commit a885b99.
"""

import torch
import torch.nn.functional as F  # noqa: N812  the name every torch user knows
from torch import Tensor

from components.bridges.layers.post_norm import PostNormAttention, PostNormBlock
from components.bridges.videollamb_bridge import VideoLLaMBBridge

NUM_CUTS = 3
_POOL_GRID = 12
MAX_FRAMES = 8


def read_one_video(bridge: VideoLLaMBBridge, features: Tensor) -> Tensor:
    """Visual tokens that the language model gets of a video.

    Args:
        bridge: Has the weights; one retrieval layer, no dropout (``eval``).
        features: ``[T, 1 + N, D]``, class token first.

    Returns:
        Tokens of the last segment, ``[1, P, E]``.
    """
    cls, patches = features[:, 0], features[:, 1:]
    side = int(patches.shape[1] ** 0.5)
    assert bridge.retrieval is not None
    planes = patches.transpose(1, 2).reshape(len(patches), -1, side, side)
    pooled = F.adaptive_avg_pool2d(planes, _POOL_GRID).flatten(2).transpose(1, 2)  # [T, g * g, D]
    memory = bridge.initial_memory[None]
    cached_memories, read = [], []
    first = 0
    for last in _boundaries(cls):
        chosen = torch.linspace(first, last, min(MAX_FRAMES, last + 1 - first), dtype=torch.float64).long()
        mixed = torch.cat([memory, pooled[chosen].flatten(0, 1)[None]], dim=1)
        for layer in bridge.layers:
            assert isinstance(layer, PostNormBlock)
            mixed = _block(layer, mixed)
        memory, tokens = mixed[:, : memory.shape[1]], mixed[:, memory.shape[1] :]
        cached_memories.append(memory)
        read.append(F.gelu(bridge.projection(tokens)))
        memory = _attend(bridge.retrieval, memory, torch.cat(cached_memories, dim=1))
        first = last + 1
    return read[-1]


def _block(block: PostNormBlock, tokens: Tensor) -> Tensor:
    tokens = _attend(block.attention, tokens, tokens)
    mixed: Tensor = block.norm(tokens + block.narrow(F.gelu(block.widen(tokens))))
    return mixed


def _attend(attention: PostNormAttention, queries: Tensor, context: Tensor) -> Tensor:
    projected = attention.query(queries), attention.key(context), attention.value(context)
    q, k, v = (each.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for each in projected)
    scores = torch.matmul(q, k.transpose(-1, -2)) / q.shape[-1] ** 0.5
    mixed = torch.matmul(scores.softmax(dim=-1), v).transpose(1, 2).flatten(2)
    normed: Tensor = attention.norm(queries + attention.out(mixed))
    return normed


def _boundaries(cls: Tensor) -> list[int]:
    """Last frame of every segment: the deepest gaps and the end of the video."""
    similarity = F.cosine_similarity(cls[:-1], cls[1:], dim=1)
    depths = [_climb(similarity, gap, -1) + _climb(similarity, gap, 1) for gap in range(len(similarity))]
    deepest = torch.stack(depths).topk(min(NUM_CUTS, len(depths))).indices.tolist()
    return sorted({*deepest, len(cls) - 1})


def _climb(similarity: Tensor, gap: int, step: int) -> Tensor:
    peak = gap
    while 0 <= peak + step < len(similarity) and similarity[peak + step] >= similarity[peak]:
        peak += step
    return similarity[peak] - similarity[gap]
