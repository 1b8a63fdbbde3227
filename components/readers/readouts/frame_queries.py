"""A Q-Former that reads every frame by itself."""

import torch
from torch import Tensor, nn
from transformers.models.blip_2.configuration_blip_2 import Blip2QFormerConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel

from components.interfaces import Questions, StoredTokens, TokenReadout, VisualTokens


class FrameQueries(TokenReadout):
    """Learned queries read the patches of each frame through a small transformer, a few tokens a frame.

    The frames do not see each other; their tokens stand one after the other.

    Args:
        dim: Width D of the patches.
        out_dim: Language model width E.
        num_queries: Tokens of a frame.
        width: Width of the transformer.
        num_layers: Its layers.
        num_heads: Attention heads; they divide ``width``.
        frequency: Every so many layers the queries attend to the patches, in the first too.

    Raises:
        ValueError: A number is not positive, or the heads do not divide the width.

    Source: the Q-Former of BLIP-2 (arXiv:2301.12597), salesforce/LAVIS (BSD-3), ``Qformer.py``, commit 506965b, in the
    form of transformers; over the frames of a video as InstructBLIP (arXiv:2305.06500). It is not trained beforehand
    here, and it reads no words.
    """

    reads_kept_tokens = False

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        num_queries: int = 32,
        width: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        frequency: int = 2,
    ) -> None:
        super().__init__()
        if min(num_queries, width, num_layers, num_heads, frequency) < 1:
            raise ValueError("num_queries, width, num_layers, num_heads and frequency must be at least 1")
        if width % num_heads:
            raise ValueError(f"the width {width} is not divisible by num_heads={num_heads}")
        config = Blip2QFormerConfig(
            hidden_size=width,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=4 * width,
            encoder_hidden_size=dim,
            cross_attention_frequency=frequency,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.queries = nn.Parameter(torch.randn(num_queries, width) * 0.02)
        self.qformer = Blip2QFormerModel(config)
        self.projection = nn.Linear(width, out_dim)

    def forward(
        self, stored: StoredTokens, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Read every frame: ``[V, F * num_queries, E]``, frame by frame."""
        grids, is_real = stored.frames()
        found = read_frames(self.qformer, self.queries, grids.flatten(0, 1))
        tokens = self.projection(found).unflatten(0, is_real.shape).flatten(1, 2)
        return VisualTokens(tokens, is_real.repeat_interleave(len(self.queries), dim=1))


def read_frames(qformer: nn.Module, queries: Tensor, frames: Tensor) -> Tensor:
    """What the queries find in each frame.

    Args:
        qformer: A Q-Former of transformers.
        queries: ``[Q, W]``.
        frames: Patches, ``[F, N, D]``.

    Returns:
        ``[F, Q, W]``.
    """
    asked = queries.to(frames.dtype).expand(len(frames), -1, -1)
    found: Tensor = qformer(query_embeds=asked, encoder_hidden_states=frames).last_hidden_state
    return found
