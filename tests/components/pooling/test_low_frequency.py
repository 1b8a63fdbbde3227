"""The low frequencies of a grid of patches."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from components.pooling.low_frequency import LowFrequencyPooling


@pytest.mark.parametrize("reserve", [1, 2, 5, 6])
def test_the_new_grid_is_the_inverse_transform_of_the_kept_frequencies(reserve: int) -> None:
    patches = torch.randn(3, 36, 4)
    grid = patches.numpy().reshape(3, 6, 6, 4)
    kept = dctn(grid, axes=(1, 2), norm="ortho")[:, :reserve, :reserve]
    expected = torch.tensor(idctn(kept, axes=(1, 2), norm="ortho")).flatten(1, 2)
    published = LowFrequencyPooling(4, reserve=reserve, rescale=False)(patches)
    torch.testing.assert_close(published, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(LowFrequencyPooling(4, reserve=reserve)(patches) * 6 / reserve, published)


def test_equal_patches_stay_as_they_are_or_grow_as_published() -> None:
    patches = torch.full((2, 16, 3), 0.7)
    torch.testing.assert_close(LowFrequencyPooling(3, reserve=2)(patches), torch.full((2, 4, 3), 0.7))
    torch.testing.assert_close(LowFrequencyPooling(3, reserve=2, rescale=False)(patches), torch.full((2, 4, 3), 1.4))


def test_a_fast_wave_is_left_out_and_a_slow_one_stays() -> None:
    place = (np.arange(8) + 0.5) * np.pi / 8
    slow, fast = (torch.tensor(np.cos(k * place), dtype=torch.float32).repeat(8).view(1, 64, 1) for k in (1, 7))
    pooled = LowFrequencyPooling(1, reserve=4)
    assert pooled(fast).abs().max() < 1e-5
    expected = torch.cos((torch.arange(4) + 0.5) * torch.pi / 4)  # the same wave on fewer places
    torch.testing.assert_close(pooled(slow).view(4, 4), expected.expand(4, 4), atol=1e-5, rtol=0)


def test_all_frequencies_give_the_patches_back_in_their_dtype() -> None:
    patches = torch.randn(2, 9, 5, requires_grad=True)
    pooled = LowFrequencyPooling(5, reserve=3)(patches)
    torch.testing.assert_close(pooled, patches, atol=1e-5, rtol=1e-5)
    pooled.sum().backward()
    assert patches.grad is not None
    assert bool((patches.grad.abs().sum(dim=(1, 2)) > 0).all())
    assert LowFrequencyPooling(5, reserve=2)(patches.detach().bfloat16()).dtype == torch.bfloat16


def test_grids_that_are_too_small_or_not_square_are_refused() -> None:
    with pytest.raises(ValueError, match="set reserve to 2 or less"):
        LowFrequencyPooling(1, reserve=3)(torch.zeros(1, 4, 1))
    with pytest.raises(ValueError, match="square"):
        LowFrequencyPooling(1, reserve=1)(torch.zeros(1, 5, 1))
    with pytest.raises(ValueError, match="at least 1"):
        LowFrequencyPooling(1, reserve=0)
