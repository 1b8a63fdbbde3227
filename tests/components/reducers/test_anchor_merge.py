from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from components.interfaces import SegmentInput
from components.merging.density_peaks import density_peaks
from components.reducers.anchor_merge import AnchorMerge
from tests.components.reducers.slow_videos import DIM, NUM_CELLS, make_segments


def merged_by_definition(part: AnchorMerge, patches: Tensor, saliency: Tensor) -> dict[tuple[int, int], Tensor]:
    """The tokens of one segment ``[L, N, D]`` by frame and cell, patch by patch."""
    length, num_cells, _ = patches.shape
    budget = part.budget_of(length, num_cells)
    salient = [saliency[frame].argsort(descending=True).tolist()[: budget.salient[frame]] for frame in range(length)]
    tokens = {(frame, cell): patches[frame, cell] for frame in range(length) for cell in salient[frame]}
    rest = [(frame, cell) for frame in range(length) for cell in range(num_cells) if cell not in salient[frame]]
    for frame, count in zip(range(length - 1, -1, -part.anchor_step), budget.targets, strict=True):
        cells = [cell for other, cell in rest if other == frame]
        only = torch.ones(1, len(cells), dtype=torch.bool)
        peaks = density_peaks(
            patches[frame, cells].unsqueeze(0), only, torch.tensor([count]), torch.tensor([4]), most=count
        )
        targets = [(frame, cells[centre]) for centre in peaks.centres[0].tolist()]
        joined: dict[tuple[int, int], list[Tensor]] = {target: [] for target in targets}
        for place in rest:
            if place not in joined or part.budget == "each_frame":
                similar = [
                    float(functional.cosine_similarity(patches[place], patches[each], dim=0)) for each in targets
                ]
                joined[targets[similar.index(max(similar))]].append(patches[place])
        for target, others in joined.items():
            weight = max(1 / (len(others) + 1), part.target_weight)
            mean = torch.stack(others).mean(dim=0) if others else torch.zeros(patches.shape[2])
            tokens[target] = weight * patches[target] + (1 - weight) * mean if others else patches[target]
    return tokens


@pytest.mark.parametrize("budget", ["segment", "each_frame"])
@pytest.mark.parametrize("weight", [0.1, 0.6])
def test_tokens_are_those_of_the_definition(budget: Any, weight: float) -> None:
    [segment] = make_segments([[5]])
    part = AnchorMerge(DIM, ratio=0.7, anchor_step=3, target_weight=weight, budget=budget)
    reduced, _ = part(segment, None)
    assert segment.saliency is not None
    expected = merged_by_definition(part, segment.grid("")[0], segment.saliency.view(5, NUM_CELLS))
    mask = reduced.token_mask[0]
    places = list(zip(reduced.token_groups[0][mask].tolist(), reduced.token_cells[0][mask].tolist(), strict=True))
    assert places == sorted(expected)
    torch.testing.assert_close(reduced.tokens[0][mask], torch.stack([expected[place] for place in places]))


def test_what_rounding_leaves_is_spread_over_the_first_frames_and_the_last_anchors() -> None:
    budget = AnchorMerge(DIM, ratio=0.05).budget_of(13, 169)
    assert budget.salient == [5] * 11 + [4] * 2
    assert budget.targets == [11, 10, 10, 10]
    assert budget.total == 13 * 8


def test_budget_of_each_frame_loses_what_rounding_leaves() -> None:
    budget = AnchorMerge(DIM, ratio=0.35, budget="each_frame").budget_of(5, 16)
    assert budget == ([3] * 5, [5, 5])


def test_tokens_never_outnumber_patches() -> None:
    [segment] = make_segments([[4]])
    reduced, _ = AnchorMerge(DIM, ratio=1.0, anchor_step=4)(segment, None)
    assert int(reduced.token_mask.sum()) <= 4 * NUM_CELLS


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_share_of_targets_may_be_nothing_or_all(share: float) -> None:
    [segment] = make_segments([[1]])
    reduced, _ = AnchorMerge(DIM, ratio=0.5, target_share=share)(segment, None)
    assert int(reduced.token_mask.sum()) == NUM_CELLS // 2


def test_equal_patches_stay_what_they_are() -> None:
    [segment] = make_segments([[3]])
    same = segment._replace(tokens=torch.ones_like(segment.tokens))
    reduced, _ = AnchorMerge(DIM, ratio=0.5)(same, None)
    torch.testing.assert_close(reduced.tokens[reduced.token_mask], torch.ones(int(reduced.token_mask.sum()), DIM))


def test_segment_without_saliency_is_refused() -> None:
    segment = SegmentInput.from_grid(torch.ones(1, 2, 4, DIM), torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="set the encoder's saliency_layer"):
        AnchorMerge(DIM)(segment, None)


@pytest.mark.parametrize(
    "settings", [{"ratio": 0.0}, {"target_share": 1.5}, {"target_weight": -0.1}, {"anchor_step": 0}, {"budget": "x"}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        AnchorMerge(DIM, **settings)
