"""The readout that shows every stored token."""

from components.bridges.layers.projection import token_projection
from components.interfaces import Questions, StoredTokens, TokenReadout, VisualTokens


class ProjectAll(TokenReadout):
    """Projects every stored token to the language model's width.

    Args:
        dim: Width D of the stored tokens.
        out_dim: Language model width E.
    """

    is_tokenwise = True

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.projection = token_projection(dim, out_dim)

    def forward(
        self, stored: StoredTokens, questions: Questions | None = None, *, budget: int | None = None
    ) -> VisualTokens:
        """Project the tokens: ``[V, P, E]``, with their places."""
        return VisualTokens(self.projection(stored.tokens), stored.mask, places=stored.places)
