"""What a grid memory passes its memories through before the language model sees them."""

from abc import ABC, abstractmethod

import torch.nn.functional as F  # noqa: N812  the name every torch user knows
from torch import Tensor, nn

from components.bridges.layers.attention import TransformerBlock
from components.recorded_arguments import RecordsArguments


class MemoryFuser(RecordsArguments, nn.Module, ABC):
    """Transforms the vectors of all memories that are shown. Built as ``Fuser(dim, *, options)``.

    Attributes:
        is_tokenwise: Whether each vector is transformed by itself. Then the vectors of one memory do not depend on the
            other memories.
    """

    is_tokenwise: bool = False

    @abstractmethod
    def forward(self, memories: Tensor, mask: Tensor | None) -> Tensor:
        """Transform the vectors.

        Args:
            memories: Vectors of all memories of a video, the oldest memory first, ``[V, Q, D]``.
            mask: Which of them are real, ``[V, Q]`` bool; None: all are.

        Returns:
            ``[V, Q, D]``.
        """


class MlpFuser(MemoryFuser):
    """Two linear layers with a GELU between them, applied to each vector. Nothing is added or normalised.

    Args:
        dim: Width D; the hidden width is four times as large.

    Source: the fuser of the Memory-Augmented VLM code.
    """

    is_tokenwise = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, 4 * dim)
        self.contract = nn.Linear(4 * dim, dim)

    def forward(self, memories: Tensor, mask: Tensor | None) -> Tensor:
        """See ``MemoryFuser.forward``."""
        fused: Tensor = self.contract(F.gelu(self.expand(memories)))
        return fused


class TransformerFuser(MemoryFuser):
    """Lets the vectors of all memories attend to each other.

    The description of the Memory-Augmented VLM has a fuser that combines memories; its code has none that runs. So
    depth, heads, norms and width are chosen here: blocks that normalise their inputs and add their results, as in
    today's transformers. Vectors have no position, because each memory already differs by its content.

    Args:
        dim: Width D; divisible by ``num_heads``.
        depth: Blocks.
        num_heads: Attention heads.

    Raises:
        ValueError: ``depth`` is not positive, or ``dim`` is not divisible by ``num_heads``.
    """

    def __init__(self, dim: int, *, depth: int = 1, num_heads: int = 8) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(
                f"a fuser needs at least 1 block, got depth={depth}; to show memories unfused, set no fuser"
            )
        self.blocks = nn.ModuleList(TransformerBlock(dim, num_heads) for _ in range(depth))

    def forward(self, memories: Tensor, mask: Tensor | None) -> Tensor:
        """See ``MemoryFuser.forward``."""
        for block in self.blocks:
            memories = block(memories, mask)
        return memories
