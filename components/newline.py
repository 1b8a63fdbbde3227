"""The learned vector that ends a line of visual tokens."""

from pathlib import Path

import torch
from torch import Tensor, nn

from components.checkpoints.part_weights import load_part_weights
from components.random_weights import mark_random
from components.recorded_arguments import RecordsArguments


class Newline(RecordsArguments, nn.Module):
    """One vector, shown where ``visual_prompt`` says ``<newline>`` and at the end of every row of a tiled picture.

    Args:
        dim: Language model width E.
        weights: Safetensors file with a trained ``vector``.
        freeze: Do not train it.

    Raises:
        ValueError: The file holds something else.
        FileNotFoundError: There is no such file.

    Source: ``image_newline`` of LLaVA-OneVision (arXiv:2408.03326).
    """

    def __init__(self, dim: int, *, weights: str | None = None, freeze: bool = False) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(dim) / dim**0.5)
        if weights is not None:
            load_part_weights(self, Path(weights), "newline.weights")
        if freeze:
            self.requires_grad_(False)
            if weights is None:
                mark_random(self)  # so that checkpoints store what no file holds

    def forward(self) -> Tensor:
        """The vector, ``[E]``."""
        # Not the parameter itself: a strategy may shard it again when this call returns.
        return self.vector.clone()
