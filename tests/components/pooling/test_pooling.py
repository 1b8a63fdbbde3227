from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from components.interfaces import PatchPooling
from components.pooling.patch_pooling import ConvPooling, GridPooling, WindowPooling

WINDOWS: dict[str, Callable[..., PatchPooling]] = {
    "average": WindowPooling,
    "max": partial(WindowPooling, reduction="max"),
    "conv": partial(ConvPooling, out_dim=7),
}
GOLDENS = Path(__file__).parents[2] / "goldens"
every_grid_reduction = pytest.mark.parametrize("reduction", ["average", "bilinear"])
every_window_pooling = pytest.mark.parametrize("make", WINDOWS.values(), ids=WINDOWS)


def by_definition(pooling: PatchPooling, patches: Tensor) -> Tensor:
    """Window after window, with loops."""
    side, stride = int(patches.shape[1] ** 0.5), pooling.stride
    pooled = []
    for row in range(0, side - stride + 1, stride):
        for column in range(0, side - stride + 1, stride):
            places = [(row + i) * side + column + j for i in range(stride) for j in range(stride)]
            window = patches[:, places]  # [F, stride * stride, D]
            if isinstance(pooling, ConvPooling):
                weight = pooling.convolution.weight.flatten(2)  # [out, D, stride * stride]
                pooled.append(torch.einsum("fpd,odp->fo", window, weight) + pooling.convolution.bias)
            else:
                assert isinstance(pooling, WindowPooling)
                pooled.append(window.mean(dim=1) if pooling.reduction == "average" else window.amax(dim=1))
    return torch.stack(pooled, dim=1)


@pytest.mark.parametrize(("side", "grid"), [(16, 12), (24, 12), (4, 12), (5, 3), (12, 12)])
def test_pooling_equals_adaptive_average_pooling(side: int, grid: int) -> None:
    patches = torch.randn(2, side * side, 5)
    planes = patches.transpose(1, 2).reshape(2, 5, side, side)
    expected = torch.nn.AdaptiveAvgPool2d(grid)(planes).flatten(2).transpose(1, 2)
    torch.testing.assert_close(GridPooling(5, grid=grid)(patches), expected)


def test_pooling_equals_that_of_the_memory_augmented_vlm() -> None:
    recorded = load_file(GOLDENS / "memory_augmented_vlm/pool.safetensors")
    pooled = {
        "bilinear": GridPooling(8, grid=14, reduction="bilinear"),
        "average": WindowPooling(8, stride=2),
        "max": WindowPooling(8, stride=2, reduction="max"),
    }
    for name, pooling in pooled.items():
        torch.testing.assert_close(pooling(recorded["in"]), recorded[f"out.{name}"], atol=1e-5, rtol=0)


@every_grid_reduction
def test_a_pooled_grid_is_not_pooled_again(reduction: Literal["average", "bilinear"]) -> None:
    pooling = GridPooling(5, grid=3, reduction=reduction)
    once = pooling(torch.randn(2, 49, 5))
    assert torch.equal(pooling(once), once)


@every_grid_reduction
def test_batch_without_frames_is_pooled_to_nothing(reduction: Literal["average", "bilinear"]) -> None:
    assert GridPooling(5, grid=2, reduction=reduction)(torch.zeros(0, 16, 5)).shape == (0, 4, 5)


def test_patches_that_form_no_square_are_refused() -> None:
    with pytest.raises(ValueError, match="15 patches a frame form no square grid"):
        GridPooling(5, grid=3)(torch.zeros(1, 15, 5))


@every_window_pooling
@pytest.mark.parametrize(("side", "stride"), [(4, 2), (5, 2), (6, 3), (3, 3), (3, 1)])
def test_windows_are_pooled_as_defined_and_what_is_left_over_is_not_read(
    make: Callable[..., PatchPooling], side: int, stride: int
) -> None:
    pooling, patches = make(5, stride=stride), torch.randn(3, side * side, 5)
    pooled = pooling(patches)
    assert pooled.shape == (3, (side // stride) ** 2, pooling.out_dim)
    torch.testing.assert_close(pooled, by_definition(pooling, patches))


@every_window_pooling
def test_window_pooling_of_no_square_is_refused(make: Callable[..., PatchPooling]) -> None:
    with pytest.raises(ValueError, match="15 patches a frame form no square grid"):
        make(5)(torch.zeros(1, 15, 5))


@every_window_pooling
def test_a_grid_smaller_than_a_window_is_refused(make: Callable[..., PatchPooling]) -> None:
    with pytest.raises(ValueError, match="2 x 2 patches holds no window of 3 x 3"):
        make(5, stride=3)(torch.zeros(1, 4, 5))


@every_window_pooling
def test_a_window_without_side_is_refused(make: Callable[..., PatchPooling]) -> None:
    with pytest.raises(ValueError, match="must be at least 1, got stride=0"):
        make(5, stride=0)


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of \('average', 'max', 'bilinear'\), got 'median'"):
        WindowPooling(5, reduction="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"one of \('average', 'bilinear'\), got 'max'"):
        GridPooling(5, grid=2, reduction="max")  # type: ignore[arg-type]


def test_a_pooled_grid_without_side_is_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 1, got grid=0"):
        GridPooling(5, grid=0)


def test_bilinear_windows_round_up_so_that_the_last_row_counts() -> None:
    patches = torch.zeros(1, 9, 1)
    patches[0, 6:] = 1.0  # the last of three rows
    pooled = WindowPooling(1, stride=2, reduction="bilinear")(patches)
    # The second of two rows has its centre at row 1.75 of 0 to 2: three quarters of the last one.
    assert pooled.flatten().tolist() == [0.0, 0.0, 0.75, 0.75]
    assert WindowPooling(1, stride=2)(patches).flatten().tolist() == [0.0]
    assert WindowPooling(1, stride=5, reduction="bilinear")(patches).shape == (1, 1, 1)
    assert WindowPooling(1, stride=2, reduction="bilinear")(patches[:0]).shape == (0, 4, 1)
