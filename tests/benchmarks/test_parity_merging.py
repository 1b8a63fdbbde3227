"""Comparisons of merged and pooled tokens in cases that the recordings at hand do not have."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.parity.baselines import llava_next, merging
from benchmarks.parity.baselines.recorded_case import RecordedCase
from benchmarks.parity.comparison import Check

WIDTH = 4


def case(
    options: dict[str, Any], inputs: dict[str, Tensor], outputs: dict[str, Tensor], raises: str | None = None
) -> RecordedCase:
    return RecordedCase("made", options, inputs, {}, outputs, None, raises, "values")


def plainly_pooled(features: Tensor, mode: str, stride: int) -> Tensor:
    """Frames pooled by torch's own functions, with the grid as an image."""
    side = int(features.shape[1] ** 0.5)
    planes = features.mT.reshape(len(features), -1, side, side)
    if mode == "bilinear":
        planes = functional.interpolate(planes, (-(-side // stride),) * 2, mode="bilinear")
    else:
        planes = (functional.max_pool2d if mode == "max" else functional.avg_pool2d)(planes, stride)
    return planes.flatten(2).mT


def with_row_ends(frame: Tensor, newline: Tensor) -> list[Tensor]:
    side = int(len(frame) ** 0.5)
    return [token for row in frame.split(side) for token in (*row, newline)]


@pytest.mark.parametrize("mode", ["average", "max", "bilinear"])
def test_the_stride_doubles_for_every_further_video_of_a_call(mode: str) -> None:
    features, newline, end = torch.randn(8, 64, WIDTH), torch.randn(WIDTH), torch.randn(WIDTH)
    outputs = {}
    for number, (video, stride) in enumerate(zip(features.split([5, 3]), (2, 4), strict=True)):
        slow, fast = (plainly_pooled(video, mode, each) for each in (stride, 2 * stride))
        shown = [(slow if frame % 4 == 0 else fast)[frame] for frame in range(len(video))]
        tokens = torch.stack([token for frame in shown for token in (*with_row_ends(frame, newline), end)])
        outputs |= {f"slow{number}": slow, f"fast{number}": fast, f"tokens{number}": tokens}
    options = {"mode": mode, "stride": 2, "fast": True, "faster_token_stride": 4, "side": 8, "frames": [5, 3]}
    checks = llava_next.compare(case(options, {"feat": features, "newline": newline, "faster_token": end}, outputs))
    assert len(checks) == 6
    assert all(each.passed for each in checks), checks


@pytest.mark.parametrize("kind", ["one_token", "no_token"])
def test_newlines_may_be_one_at_the_end_or_none(kind: str) -> None:
    features, newline = torch.randn(3, 16, WIDTH), torch.randn(WIDTH)
    ends = [newline[None]] if kind == "one_token" else []
    outputs = {"tokens": torch.cat([features.flatten(0, 1), *ends])}
    [check] = llava_next.compare(case({"kind": kind}, {"feat": features, "newline": newline}, outputs))
    assert check.passed


@pytest.mark.parametrize(
    ("compare", "options", "inputs"),
    [
        (merging.compare_aim, {}, {"x": torch.randn(2, 1, WIDTH)}),
        (merging.compare_aim, {}, {"x": torch.randn(2, 3, WIDTH)}),
        (merging.compare_videochat_flash, {"target": 9}, {"x": torch.randn(2, 9, WIDTH)}),
        (merging.compare_videochat_flash, {"compress": True}, {"x": torch.randn(6, 16, WIDTH)}),
        (merging.compare_longvlm, {"clips": 4, "r": [2]}, {"frames": torch.randn(5, 4, WIDTH)}),
        (merging.compare_dycoke, {"k": 0.7}, {"tokens": torch.randn(3, 9, WIDTH)}),
    ],
)
def test_what_raises_there_gives_tokens_here(
    compare: Callable[[RecordedCase], Sequence[Check]], options: dict[str, Any], inputs: Any
) -> None:
    [check] = compare(case(options, inputs, {}, raises="an error"))
    assert check.passed, check


def test_a_compared_frame_may_keep_no_token_as_published() -> None:
    tokens = torch.randn(8, 10, WIDTH)
    outputs = {"tokens": tokens[[0, 4, 6]].flatten(0, 1)}  # 0.9 of ten patches are dropped: 0.99 stay, rounded down
    [check] = merging.compare_dycoke(case({"k": 0.9}, {"tokens": tokens}, outputs))
    assert check.passed
