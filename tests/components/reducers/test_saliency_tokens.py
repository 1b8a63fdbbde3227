"""Tokens that are kept by their saliency."""

import pytest
import torch

from components.interfaces import SegmentInput
from components.reducers.saliency_tokens import SaliencyTokens, shared_budgets
from tests.components.reducers.slow_videos import DIM, frames_and_cells, make_segments


def segment_with(saliency: torch.Tensor, mask: torch.Tensor | None = None) -> SegmentInput:
    """One segment of V videos with this saliency, ``[V, L, N]``."""
    num_videos, length, num_cells = saliency.shape
    mask = torch.ones(num_videos, length, dtype=torch.bool) if mask is None else mask
    grid = torch.randn(num_videos, length, num_cells, DIM)
    segment = SegmentInput.from_grid(grid, mask, torch.zeros(num_videos, length).long())
    return segment._replace(saliency=saliency.flatten(1))


def test_each_frame_keeps_its_most_salient_patches_in_their_order() -> None:
    saliency = torch.tensor([[[0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.2, 0.1]]])
    reduced, _ = SaliencyTokens(DIM, rate=0.5)(segment_with(saliency), None)
    assert frames_and_cells(reduced, 0) == [(0, 1), (0, 3), (1, 0), (1, 1)]


def test_of_equal_patches_the_first_are_kept_and_at_least_one() -> None:
    reduced, _ = SaliencyTokens(DIM, rate=0.1)(segment_with(torch.zeros(1, 3, 4)), None)
    assert frames_and_cells(reduced, 0) == [(0, 0), (1, 0), (2, 0)]


def test_shared_budgets_follow_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    saliency = torch.rand(4, 5, 6, generator=generator)
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 0])[:, None]
    budgets = shared_budgets(saliency.masked_fill(~mask[..., None], -torch.inf), mask, 0.3, 0.5)
    for video, length in enumerate((5, 3, 1)):
        top = saliency[video, :length].flatten().argsort(descending=True)[: int(length * 6 * 0.5)]
        wins = [int((top // 6 == frame).sum()) for frame in range(length)]
        expected = [int(won / len(top) * int(length * 6 * 0.3 + 1e-6) + 1e-6) for won in wins]
        assert budgets[video].tolist() == [*expected, *[0] * (5 - length)]
    assert budgets[3].tolist() == [0] * 5


def test_a_segment_keeps_a_token_where_every_share_is_rounded_down_to_nothing() -> None:
    saliency = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [1.0, 0.5, 0.0, 0.0]]])
    reduced, _ = SaliencyTokens(DIM, rate=0.13, budget="shared")(segment_with(saliency), None)  # one token for two
    assert frames_and_cells(reduced, 0) == [(0, 0)]


def test_a_frame_without_salient_patches_gives_its_tokens_to_the_others() -> None:
    saliency = torch.tensor([[[9.0, 8.0, 7.0, 6.0], [1.0, 1.0, 1.0, 1.0]]])
    reduced, _ = SaliencyTokens(DIM, rate=0.5, budget="shared")(segment_with(saliency), None)
    assert frames_and_cells(reduced, 0) == [(0, 0), (0, 1), (0, 2), (0, 3)]


@pytest.mark.parametrize("budget", ["equal", "shared"])
def test_the_whole_rate_keeps_every_patch(budget: str) -> None:
    segment = make_segments([[3]], seeds=[0])[0]
    segment = segment._replace(saliency=torch.rand(1, segment.tokens.shape[1]))
    reduced, _ = SaliencyTokens(DIM, rate=1.0, budget=budget, contest=1.0)(segment, None)  # type: ignore[arg-type]
    assert torch.equal(reduced.tokens, segment.tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, "rate must be above 0"),
        ({"contest": 1.5}, "contest must be above 0 and at most 1"),
        ({"budget": "best"}, "budget must be one of"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SaliencyTokens(DIM, **options)  # type: ignore[arg-type]


def test_features_without_saliency_are_refused() -> None:
    segment = segment_with(torch.zeros(1, 2, 4))._replace(saliency=None)
    with pytest.raises(ValueError, match="set the encoder's saliency_layer"):
        SaliencyTokens(DIM)(segment, None)
