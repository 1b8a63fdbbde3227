"""The visual tokens of pictures in tiles are those of transformers' LLaVA-OneVision."""

import random

import pytest
import torch
from torch import Tensor
from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_onevision.modeling_llava_onevision import (
    LlavaOnevisionModel,
    get_anyres_image_grid_shape,
    image_size_to_num_patches,
)

from components.pictures.tile_grid import PictureSize, best_grid, covered_part, scaled_to_grid
from components.pictures.tile_layout import TileLayout

DIM = 3
PINPOINTS = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
SHAPES = [
    (384, 384),
    (100, 3000),
    (3000, 100),
    (20, 30),
    (500, 333),
    (2304, 2304),
    (5000, 4000),
    (385, 1151),
    (7, 9000),
]
DRAWN = [(drawn.randint(8, 3000), drawn.randint(8, 3000)) for drawn in map(random.Random, range(150))]


@pytest.fixture(scope="module")
def original() -> LlavaOnevisionModel:
    """A model whose weights are not read: only its arithmetic of pictures is."""
    vision = SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=384, patch_size=14
    )
    text = Qwen2Config(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    return LlavaOnevisionModel(
        LlavaOnevisionConfig(vision_config=vision, text_config=text, image_grid_pinpoints=PINPOINTS)
    )


def shown(original: LlavaOnevisionModel, patches: Tensor, size: tuple[int, int], newline: Tensor) -> Tensor:
    """The visual tokens of the original."""
    [tokens], _ = original.pack_image_features([patches], torch.tensor([size]), newline)
    return tokens


def random_patches(size: tuple[int, int], per_side: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(size))
    grid = best_grid(PictureSize(*size), 384, per_side)
    patches = torch.randn(1 + grid.num_tiles, 729, DIM, generator=generator)
    return patches, torch.randn(DIM, generator=generator)


@pytest.mark.parametrize("size", SHAPES)
def test_tokens_of_a_picture_equal_those_of_the_original(original: LlavaOnevisionModel, size: tuple[int, int]) -> None:
    patches, newline = random_patches(size)
    found = TileLayout(DIM)(patches, size, newline)
    torch.testing.assert_close(found, shown(original, patches, size, newline), rtol=0, atol=1e-6)


def test_tokens_of_drawn_sizes_equal_those_of_the_original(original: LlavaOnevisionModel) -> None:
    for size in DRAWN:
        patches, newline = random_patches(size)
        found = TileLayout(DIM)(patches, size, newline)
        torch.testing.assert_close(found, shown(original, patches, size, newline), rtol=0, atol=1e-6)


def test_a_picture_of_several_is_its_patches_and_one_newline(original: LlavaOnevisionModel) -> None:
    patches, newline = torch.randn(1, 729, DIM), torch.randn(DIM)
    found = TileLayout(DIM)(patches, (40, 50), newline)
    assert torch.equal(found, shown(original, patches, (40, 50), newline))
    assert torch.equal(found, torch.cat([patches[0], newline[None]]))


def test_the_grid_is_the_one_of_the_original_for_every_size() -> None:
    drawn = random.Random(0)
    for _ in range(3000):
        size = (drawn.randint(1, 4000), drawn.randint(1, 4000))
        if select_best_resolution(size, PINPOINTS) is None:  # the original cannot read such a thin picture
            continue
        grid = best_grid(PictureSize(*size), 384, 6)
        assert tuple(grid) == get_anyres_image_grid_shape(size, PINPOINTS, 384)
        assert 1 + grid.num_tiles == image_size_to_num_patches(size, PINPOINTS, 384)


@pytest.mark.parametrize("size", [(1, 9000), (9000, 1), (1, 1)])
def test_the_thinnest_picture_has_a_tile_and_shows_something(size: tuple[int, int]) -> None:
    grid = best_grid(PictureSize(*size), 384, 6)
    scaled = scaled_to_grid(PictureSize(*size), grid, 384)
    assert min(scaled) >= 1
    covered = covered_part(PictureSize(*size), grid.rows * 27, grid.columns * 27)
    assert covered.bottom > covered.top
    assert covered.right > covered.left


def test_half_precision_gives_half_precision() -> None:
    patches, newline = random_patches((1000, 1500))
    assert TileLayout(DIM)(patches.bfloat16(), (1000, 1500), newline).dtype == torch.bfloat16


def test_gradients_reach_all_tiles_and_the_newline() -> None:
    patches, newline = random_patches((384, 768))
    patches, newline = patches.requires_grad_(), newline.requires_grad_()
    TileLayout(DIM)(patches, (384, 768), newline).square().sum().backward()
    assert patches.grad is not None
    assert newline.grad is not None
    assert bool((patches.grad.abs().sum(dim=2) > 0).all())
    assert bool((newline.grad != 0).all())


def test_tiles_of_another_size_of_picture_are_refused() -> None:
    patches, newline = random_patches((384, 768))
    with pytest.raises(ValueError, match=r"has 9 tiles .* got 2 tiles of 729: give data\.pixels\.size"):
        TileLayout(DIM)(patches, (1152, 1152), newline)


@pytest.mark.parametrize("option", ["tile_size", "per_side", "max_tiles"])
def test_options_that_are_not_positive_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        TileLayout(DIM, **{option: 0})
