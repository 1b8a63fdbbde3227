"""The longest patches of a frame, similar ones averaged."""

import pytest
import torch
from torch import Tensor

from components.interfaces import SegmentInput
from components.reducers.norm_top_merge import NormTopMerge, shares_of_means
from tests.components.reducers.slow_videos import frames_and_cells

CHAIN = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.28, 0.96]])
"""The first is like the second, the second like the third, the first not like the third."""


def slow_means(tokens: Tensor, threshold: float) -> dict[int, list[int]]:
    """The tokens of every mean, one frame, by the definition."""
    left, means = list(range(len(tokens))), {}
    while left:
        first = left[0]
        near = [each for each in left if torch.cosine_similarity(tokens[first], tokens[each], dim=0) >= threshold]
        means[first] = sorted({first, *near})
        left = [each for each in left if each not in means[first]]
    return means


def segment_of(frames: Tensor) -> SegmentInput:
    """One segment of one video, ``[L, N, D]``."""
    mask = torch.ones(1, len(frames), dtype=torch.bool)
    return SegmentInput.from_grid(frames[None], mask, torch.zeros(1, len(frames)).long())


@pytest.mark.parametrize("threshold", [-1.1, 0.2, 0.6, 1.1])
def test_means_follow_the_definition(threshold: float) -> None:
    frames = torch.randn(6, 9, 3, generator=torch.Generator().manual_seed(0))
    shares = shares_of_means(frames, threshold)
    for frame, found in zip(frames, shares, strict=True):
        expected = slow_means(frame, threshold)
        assert {row: each.nonzero().flatten().tolist() for row, each in enumerate(found) if each.any()} == expected
        assert torch.equal((found > 0).sum(dim=0), torch.ones(9).long())  # each is in one mean


def test_the_end_of_a_chain_stays_and_is_lost_as_published() -> None:
    assert (shares_of_means(CHAIN[None], 0.75)[0] > 0).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert (shares_of_means(CHAIN[None], 0.75, as_published=True)[0] > 0).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_as_published_a_mean_has_patches_of_other_means_too() -> None:
    middle_first = CHAIN[[0, 2, 1]]  # both ends come first: the first takes the middle along, and so does the second
    ours = (shares_of_means(middle_first[None], 0.75)[0] > 0).tolist()
    published = (shares_of_means(middle_first[None], 0.75, as_published=True)[0] > 0).tolist()
    assert ours == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert published == [[1, 0, 1], [0, 1, 1], [0, 0, 0]]


def test_the_longest_patches_stay_at_their_places_and_short_ones_go() -> None:
    frame = torch.tensor([[0.0, 1.0], [5.0, 0.0], [0.1, 0.0], [0.0, 7.0], [4.0, 0.0]])
    reduced, _ = NormTopMerge(2, rate=0.6, threshold=0.9)(segment_of(frame[None]), None)
    assert frames_and_cells(reduced, 0) == [(0, 1), (0, 3)]
    assert reduced.tokens[0].tolist() == [[4.5, 0.0], [0.0, 7.0]]
    one, _ = NormTopMerge(2, rate=0.1)(segment_of(frame[None]), None)
    assert one.tokens[0].tolist() == [[0.0, 7.0]]


def test_equal_patches_become_one_at_the_first_place() -> None:
    reduced, _ = NormTopMerge(2, rate=1.0)(segment_of(torch.ones(2, 4, 2)), None)
    assert frames_and_cells(reduced, 0) == [(0, 0), (1, 0)]


def test_every_patch_of_a_mean_gets_its_share_of_the_gradient() -> None:
    frames = torch.ones(1, 4, 2, requires_grad=True)
    reduced, _ = NormTopMerge(2, rate=1.0)(segment_of(frames), None)
    reduced.tokens.sum().backward()
    assert frames.grad is not None
    torch.testing.assert_close(frames.grad, torch.full((1, 4, 2), 0.25))


def test_no_share_is_refused() -> None:
    with pytest.raises(ValueError, match="rate must be above 0"):
        NormTopMerge(2, rate=0.0)


def test_autocast_does_not_change_what_is_averaged() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 1, 64, generator=generator) + 0.5 * torch.randn(2, 32, 64, generator=generator)
    plain = shares_of_means(tokens, 0.8)
    with torch.autocast("cpu", torch.bfloat16):
        half = shares_of_means(tokens, 0.8)
    assert torch.equal(plain, half)
    assert bool((plain.count_nonzero(dim=2) > 1).any())  # some are averaged
