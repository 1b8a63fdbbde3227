"""Cuts that let the most patches be stored once."""

from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor

from components.segmenters.static_segments import StaticSegments, static_windows


def saved(is_same: Tensor, lengths: list[int]) -> int:
    """Patches that windows of these lengths save."""
    total = first = 0
    for length in lengths:
        total += int(is_same[first : first + length - 1].all(dim=0).sum()) * (length - 1) if length > 1 else 0
        first += length
    return total


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("longest", [2, 4, 9])
def test_no_other_cuts_save_more(seed: int, longest: int) -> None:
    is_same = torch.rand(7, 5, generator=torch.Generator().manual_seed(seed)) < 0.7
    found = static_windows(is_same, longest)
    assert sum(found.lengths) == 8
    assert max(found.lengths) <= longest
    assert found.saved == saved(is_same, found.lengths)
    for number in range(8):
        for cuts in combinations(range(1, 8), number):
            bounds = [0, *cuts, 8]
            lengths = [end - begin for begin, end in pairwise(bounds)]
            if max(lengths) <= longest:
                assert saved(is_same, lengths) <= found.saved


def test_a_still_video_is_one_segment_and_one_that_changes_everywhere_has_one_a_frame() -> None:
    still = torch.randn(1, 4, 3).expand(6, -1, -1)
    changing = torch.eye(6)[:, None].expand(-1, 4, -1)[..., :6]
    segmenter = StaticSegments()
    cls = torch.zeros(6, 3)
    assert segmenter.segment(cls, torch.tensor([6]), still).tolist() == [0] * 6
    assert segmenter.segment(cls, torch.tensor([6]), changing).tolist() == [0, 1, 2, 3, 4, 5]
    together = segmenter.segment(cls, torch.tensor([2, 4]), still)
    assert together.tolist() == [0, 0, 0, 0, 0, 0]  # each video begins with its first segment
    assert StaticSegments(longest=4).segment(cls, torch.tensor([6]), still).tolist() == [0, 0, 0, 0, 1, 1]


def test_what_is_missing_or_wrong_is_named() -> None:
    with pytest.raises(ValueError, match="compares patches, and got none"):
        StaticSegments().segment(torch.zeros(2, 3), torch.tensor([2]))
    with pytest.raises(ValueError, match="longest must be at least 1"):
        StaticSegments(longest=0)
    assert StaticSegments().stream() is None
