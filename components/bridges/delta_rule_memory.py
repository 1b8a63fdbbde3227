"""A bridge whose memory is one matrix a head that stores patches by the gated delta rule."""

import math
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.bridges.layers.delta_rule import stored
from components.bridges.layers.patch_sequence import PatchSequenceInput
from components.bridges.layers.projection import token_projection
from components.bridges.layers.split_heads import split_heads
from components.interfaces import Questions, SegmentInput, VisualReader, VisualTokens

_SLOWEST, _FASTEST = 1e-4, 1e-1  # share that a head forgets a patch when training starts


class DeltaRuleState(NamedTuple):
    """What is stored after some segments."""

    matrix: Tensor  # [V, heads, width / heads, width / heads] float32


class DeltaRuleMemory(VisualReader[DeltaRuleState]):
    """Stores every patch in a matrix of fixed size, under a key that the patch itself gives.

    What is already stored under a key is corrected instead of added to, and everything fades a little with every patch;
    how strongly a patch is stored and how much fades are learned and depend on the patch. Learned queries read the
    matrix. The stored bytes do not grow with the video, and the cuts between segments change nothing.

    When training starts, the heads forget between a tenth and a ten thousandth of the memory with every patch, so that
    some of them remember long videos.

    Args:
        dim: Width D of a patch.
        out_dim: Language model width E.
        width: Inner width; D by default. Divisible by 4 and by ``num_heads``.
        num_heads: Matrices; each has ``(width / num_heads)^2`` numbers.
        num_queries: Visual tokens Q.
        frame_positions: Add a code of each frame's number in its video to its patches.

    Raises:
        ValueError: There is no head or query, or the width does not fit.

    Source: Gated Delta Networks (arXiv:2412.06464), as a memory between frames and language model. There it is a layer
    of a language model, with a convolution before the keys and a gate behind the reading; here queries are learned
    vectors, because what is asked is not known, and neither convolution nor gate is built.
    """

    reads_kept_tokens = True

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        width: int | None = None,
        num_heads: int = 4,
        num_queries: int = 16,
        frame_positions: bool = False,
    ) -> None:
        super().__init__()
        width = width or dim
        if min(num_heads, num_queries) < 1:
            raise ValueError(f"num_heads and num_queries must be at least 1, got {num_heads} and {num_queries}")
        if width % num_heads:
            raise ValueError(f"width {width} is not divisible by {num_heads} heads")
        self.num_heads = num_heads
        self.patch_input = PatchSequenceInput(dim, width, frame_positions=frame_positions)
        self.key_value = nn.Linear(width, 2 * width)
        self.gates = nn.Linear(width, 2 * num_heads)  # how much fades, then how strongly a patch is stored
        rates = torch.logspace(math.log10(_SLOWEST), math.log10(_FASTEST), num_heads)
        with torch.no_grad():
            self.gates.bias.copy_(torch.cat([rates.expm1().log(), torch.zeros(num_heads)]))
        self.queries = nn.Parameter(torch.randn(num_heads, num_queries, width // num_heads))
        self.projection = token_projection(width, out_dim)

    def forward(self, segment: SegmentInput, state: DeltaRuleState | None) -> DeltaRuleState:
        """Store the patches of one segment of every video; see ``VisualReader.forward``."""
        tokens, mask = self.patch_input(segment)
        keys, values = (split_heads(each, self.num_heads).float() for each in self.key_value(tokens).chunk(2, dim=-1))
        fading, strength = self.gates(tokens).float().transpose(1, 2).chunk(2, dim=1)  # [V, heads, P]
        is_real = mask[:, None].float()
        log_decay, share = -functional.softplus(fading) * is_real, strength.sigmoid() * is_real
        if state is None:
            head_dim = keys.shape[3]
            state = DeltaRuleState(keys.new_zeros(len(keys), self.num_heads, head_dim, head_dim))
        device = keys.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            return DeltaRuleState(stored(state.matrix, functional.normalize(keys, dim=-1), values, log_decay, share))

    def read(
        self, state: DeltaRuleState, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Read the matrices with the learned queries: ``[V, Q, E]``, all real."""
        queries = functional.normalize(self.queries.float(), dim=-1)
        found = (queries @ state.matrix).transpose(1, 2).flatten(2)  # [V, Q, width]
        tokens = self.projection(found.to(self.gates.weight.dtype))
        return VisualTokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))
