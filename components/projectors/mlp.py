"""The projector of LLaVA: a small perceptron, applied to every patch."""

from pathlib import Path

from torch import Tensor, nn

from components.checkpoints.weight_files import WeightFiles
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

    Raises:
        ValueError: ``depth`` is not positive, or the file holds other tensors than a projector of these sizes has.
        FileNotFoundError: There is no such file.

    Source: LLaVA-1.5 (arXiv:2310.03744).
    """

    def __init__(
        self, dim: int, out_dim: int, *, depth: int = 2, weights: str | None = None, freeze: bool = False
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
        if weights is not None:
            self._load(Path(weights))
        if freeze:
            self.requires_grad_(False)
        if freeze and weights is None:
            mark_random(self)  # so that checkpoints store what no file holds

    def forward(self, patches: Tensor) -> Tensor:
        """Project every patch: ``[F, N, D]`` to ``[F, N, out_dim]``."""
        projected: Tensor = self.layers(patches)
        return projected

    def _load(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path} with a projector's weights; correct projector.weights")
        tensors = dict(WeightFiles(path))
        stored = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        own = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        if stored != own:
            raise ValueError(
                f"{path} does not fit this projector: it holds {_shown(stored)}, needed are {_shown(own)}. Set depth "
                "as it was trained, and take encoder and language model of its widths"
            )
        self.load_state_dict(tensors)


def _shown(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items())[:6])
