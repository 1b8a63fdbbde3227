"""Learned queries that read the video in its order, of which any first few may be shown."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F  # noqa: N812  the name every torch user knows
from torch import Tensor, nn

from components.bridges.layers.split_heads import split_heads
from components.interfaces import Questions, StoredTokens, TokenReadout, VisualTokens
from components.positions import sinusoidal
from components.readers.readouts.stored_frames import stored_frames

Keys = Literal["content", "position"]
_CODE = 32  # width of the code of a time and of a cell


class OrderedResampler(TokenReadout):
    """A fixed number of learned queries reads all stored tokens, whatever the length of the video.

    With ``ordered``, the first query sees the beginning of the video alone, each next one sees a part more, and the
    last one sees all of it, so that the visual tokens have the order of time. With ``elastic``, training shows the
    language model a random number of the first queries, so that afterwards any number of them may be shown.

    Args:
        dim: Width D of the stored tokens.
        out_dim: Language model width E.
        num_queries: Queries Q.
        num_heads: Attention heads; they divide ``out_dim``.
        ordered: Whether a query sees the frames up to its share of the video alone.
        elastic: Whether training draws the number of queries from 2, 4, 8 and so on up to Q.
        shown: Queries in evaluation; null for all.
        keys: What a query finds a token by. ``content``: what it shows, and where and when. ``position``: where and
            when alone, as published for elastic queries.

    Raises:
        ValueError: A number is not positive, ``shown`` is above Q, ``keys`` is neither of the two, or the heads do not
            divide ``out_dim``.

    Source: the mask as Video-CCAM (arXiv:2408.14023), whose repository QQ-MM/Video-CCAM (MIT, commit 5f36c04) has no
    code of it: its formula is ours. Elastic queries as MQT-LLaVA (arXiv:2405.19315), gordonhu608/MQT-LLaVA
    (Apache-2.0), ``multimodal_projector/builder.py``, commit 92c35d0; it draws one number for all ranks, here each rank
    draws its own, and it codes places by a fixed two-dimensional table, here by a learned map of sines.
    """

    is_elastic = True

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        num_queries: int = 256,
        num_heads: int = 16,
        ordered: bool = True,
        elastic: bool = False,
        shown: int | None = None,
        keys: Keys = "content",
    ) -> None:
        super().__init__()
        if num_queries < 1 or not 1 <= (num_queries if shown is None else shown) <= num_queries:
            raise ValueError(f"num_queries must be at least 1 and shown at most that, got {num_queries} and {shown}")
        if keys not in get_args(Keys):
            raise ValueError(f"keys must be one of {get_args(Keys)}, got {keys!r}")
        if out_dim % num_heads:
            raise ValueError(f"the width {out_dim} is not divisible by num_heads={num_heads}")
        self.num_heads = num_heads
        self.ordered = ordered
        self.elastic = elastic
        self.shown = shown
        self.keys = keys
        self.queries = nn.Parameter(torch.empty(num_queries, out_dim))
        nn.init.trunc_normal_(self.queries, std=0.02)
        self.value_norm = nn.LayerNorm(dim)
        self.content = nn.Linear(dim, out_dim)
        self.position = nn.Linear(2 * _CODE, out_dim)
        self.key_norm, self.query_norm = nn.LayerNorm(out_dim), nn.LayerNorm(out_dim)
        self.query, self.key, self.value = (nn.Linear(out_dim, out_dim) for _ in range(3))
        self.output = nn.Linear(out_dim, out_dim)

    def forward(
        self, stored: StoredTokens, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Read the stored tokens: ``[V, m, E]``, all real; m is ``budget``, else ``shown``, else Q."""
        queries = self.queries[: self._num_shown(budget)]  # the first ones are trained to do alone
        content = self.content(self.value_norm(stored.tokens))
        place = self.position(_codes(stored).to(content.dtype))
        keys = self.key(self.key_norm(place + content if self.keys == "content" else place))
        q = self.query(self.query_norm(queries)).to(keys.dtype).expand(len(keys), -1, -1)
        mask = self._mask(stored, queries.shape[0])
        q, k, v = (split_heads(each, self.num_heads) for each in (q, keys, self.value(content)))
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])
        tokens = self.output(read.transpose(1, 2).flatten(2))
        return VisualTokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))

    def _num_shown(self, budget: int | None) -> int:
        most = int(self.queries.shape[0])
        if budget is not None:
            return min(budget, most)
        if not (self.training and self.elastic):
            return self.shown or most
        sizes = [2**power for power in range(1, most.bit_length()) if 2**power < most]
        drawn: int = [*sizes, most][int(torch.randint(len(sizes) + 1, ()))]
        return drawn

    def _mask(self, stored: StoredTokens, num_queries: int) -> Tensor:
        """Which tokens each query sees, ``[V, m, P]`` bool."""
        if not self.ordered:
            return stored.mask[:, None].expand(-1, num_queries, -1)
        frames = stored_frames(stored)
        share = torch.arange(1, num_queries + 1, device=stored.tokens.device)  # (q + 1) of m
        seen = (share * frames.number[:, None] + num_queries - 1) // num_queries  # [V, m], rounded up
        return stored.mask[:, None] & (frames.of_token[:, None] < seen[:, :, None])


def _codes(stored: StoredTokens) -> Tensor:
    """Codes of the relative time and of the cell of every token, ``[V, P, 2 * _CODE]``."""
    time = stored.places.ms.double().masked_fill(~stored.mask, 0)
    relative = time / time.amax(dim=1, keepdim=True).clamp(min=1)
    cell = stored.places.cell.masked_fill(~stored.mask, 0)
    codes = (
        sinusoidal(relative, _CODE, longest=2.0, shortest=2.0 / 16),
        sinusoidal(cell, _CODE, longest=2048.0, shortest=2.0),
    )
    return torch.cat(codes, dim=-1)
