import pytest
import torch

from components.pooling import pool_patches


@pytest.mark.parametrize(("side", "grid"), [(16, 12), (24, 12), (4, 12), (5, 3), (12, 12)])
def test_pooling_equals_adaptive_average_pooling(side: int, grid: int) -> None:
    patches = torch.randn(2, side * side, 5)
    planes = patches.transpose(1, 2).reshape(2, 5, side, side)
    expected = torch.nn.AdaptiveAvgPool2d(grid)(planes).flatten(2).transpose(1, 2)
    torch.testing.assert_close(pool_patches(patches, grid), expected)


def test_batch_without_frames_is_pooled_to_nothing() -> None:
    assert pool_patches(torch.zeros(0, 16, 5), 2).shape == (0, 4, 5)


def test_patches_that_form_no_square_are_refused() -> None:
    with pytest.raises(ValueError, match="15 patches a frame form no square grid"):
        pool_patches(torch.zeros(1, 15, 5), 3)
