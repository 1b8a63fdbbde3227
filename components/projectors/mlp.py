"""The projector of LLaVA: a small perceptron, applied to every patch."""

from pathlib import Path

from torch import Tensor, nn

from components.checkpoints.part_weights import load_part_weights
from components.interfaces import Projector
from components.random_weights import mark_random


class MlpProjector(Projector):
    """Linear layers with a GELU between each two.

    Its tensors are called ``layers.0.weight``, ``layers.2.weight`` and so on; LLaVA's are ``mm_projector.0.weight``.

    Args:
        dim: Width of a patch, D.
        out_dim: Width of a projected patch; all layers but the first have it too.
        depth: Linear layers; LLaVA-1.5 and LLaVA-OneVision have two.
        weights: Safetensors file with trained weights, under the names above.
        freeze: Do not train it.
        normalise: Normalise the patches before the layers and after them, each by itself. A projector that starts from
            random weights needs it where features are small: patches that it leaves small cannot be told apart once a
            reader has added positions. The norms' tensors are called ``input_norm.*`` and ``output_norm.*``.

    Raises:
        ValueError: ``depth`` is not positive, or the file holds other tensors than a projector of these sizes has.
        FileNotFoundError: There is no such file.

    Source: LLaVA-1.5 (arXiv:2310.03744).
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        depth: int = 2,
        weights: str | None = None,
        freeze: bool = False,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"a projector needs at least 1 layer, got depth={depth}")
        self.out_dim = out_dim
        self.path = weights
        layers: list[nn.Module] = [nn.Linear(dim, out_dim)]
        for _ in range(depth - 1):
            layers += [nn.GELU(), nn.Linear(out_dim, out_dim)]
        self.layers = nn.Sequential(*layers)
        self.input_norm = nn.LayerNorm(dim) if normalise else nn.Identity()
        self.output_norm = nn.LayerNorm(out_dim) if normalise else nn.Identity()
        if weights is not None:
            advice = "Set depth as it was trained, and take encoder and language model of its widths"
            load_part_weights(self, Path(weights), "projector.weights", advice)
        if freeze:
            self.requires_grad_(False)
        if freeze and weights is None:
            mark_random(self)  # so that checkpoints store what no file holds

    def forward(self, patches: Tensor) -> Tensor:
        """Project every patch: ``[F, N, D]`` to ``[F, N, out_dim]``."""
        projected: Tensor = self.output_norm(self.layers(self.input_norm(patches)))
        return projected
