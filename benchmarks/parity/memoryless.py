"""The original's two projectors without memory, assembled from our blocks for the comparison."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.parity.comparison import Check, output_check
from components.bridges.post_norm import PostNormBlock
from components.pooling import patch_grid_side, pool_patches
from components.weights.original_names import bridge_names, num_layers_of

_GRID = 12
_FRAMES = 4


@torch.no_grad()
def compare_transformer(
    stored: Tensor, outputs: dict[str, Tensor], weights: dict[str, Tensor], config: dict[str, Any]
) -> Sequence[Check]:
    """``TransformerProjector``: the video averaged to 4 x 12 x 12 places, blocks, projection, GELU.

    Args:
        stored: Patches, ``[V, T, N, D]``; images are pooled to 12 x 12.
        outputs: Recorded outputs; ``out_every4th`` holds every fourth token.
        weights: Original tensors below ``projector.``.
        config: The recorded configuration.
    """
    own = {name.removeprefix("projector."): value for name, value in weights.items() if name.startswith("projector.")}
    num_videos, num_frames, num_patches, dim = stored.shape
    side = patch_grid_side(num_patches)
    volume = stored.permute(0, 3, 1, 2).reshape(num_videos, dim, num_frames, side, side)
    pooled = functional.adaptive_avg_pool3d(volume, (min(num_frames, _FRAMES), _GRID, _GRID))
    tokens = _run_blocks(pooled.flatten(2).transpose(1, 2), own, config, dim)
    out = functional.gelu(functional.linear(tokens, own["proj.0.weight"], own["proj.0.bias"]))
    ours = {"out": out, "out_every4th": out[:, ::4]}
    return [output_check(key, ours[key], theirs) for key, theirs in outputs.items()]


@torch.no_grad()
def compare_mlp_transformer(stored: Tensor, outputs: dict[str, Tensor], config: dict[str, Any]) -> Sequence[Check]:
    """``MLPTransformerProjector``: two linear layers, pooling to 12 x 12, blocks at the language model's width.

    Args:
        stored: Patches of some frames, ``[F, N, D]``.
        outputs: The recorded output, and the weights below ``weights.``.
        config: The recorded configuration.
    """
    own = {name.removeprefix("weights."): value for name, value in outputs.items() if name.startswith("weights.")}
    hidden = functional.gelu(functional.linear(stored, own["proj.0.weight"], own["proj.0.bias"]))
    tokens = pool_patches(functional.linear(hidden, own["proj.2.weight"], own["proj.2.bias"]), _GRID)
    return [output_check("out", _run_blocks(tokens, own, config, config["hidden_size"]), outputs["out"])]


def _run_blocks(tokens: Tensor, weights: dict[str, Tensor], config: dict[str, Any], dim: int) -> Tensor:
    """Send tokens ``[V, P, D]`` through blocks with the original weights ``layers.*``."""
    num_layers = num_layers_of(weights)
    heads, mlp_width = config["mm_num_attention_heads"], config["mm_intermediate_size"]
    blocks = nn.ModuleList(PostNormBlock(dim, heads, mlp_width, dropout=0.0) for _ in range(num_layers))
    names = {theirs.removeprefix("projector."): ours for theirs, ours in bridge_names(num_layers).items()}
    used = {names[name]: value for name, value in weights.items() if name.startswith("layers.") and name in names}
    blocks.load_state_dict({name.removeprefix("layers."): value for name, value in used.items()})
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
    for block in blocks:
        tokens = block(tokens, mask)
    return tokens
