"""The causal rule of SceneTilling's stream, held against its definition."""

import pytest
import torch
from torch import Tensor

from components.segmenters.depth import adjacent_similarity
from components.segmenters.scene_tilling import SceneTilling
from tests.components.segmenters.scene_tilling_by_definition import declared_by_definition

WIDTH = 16
STEPS = WIDTH // 2  # similarities are multiples of 1 / STEPS


def frames_of(curve: list[float]) -> Tensor:
    """Class vectors of signs with exactly these similarities: each turns over as many signs as it takes."""
    vectors = [torch.ones(WIDTH)]
    for similarity in curve:
        turned = torch.ones(WIDTH)
        turned[: round((1 - similarity) * STEPS)] = -1.0
        vectors.append(vectors[-1] * turned)
    return torch.stack(vectors)


def declared_after_each_frame(curve: list[float], alpha: float, max_segment_frames: int | None) -> list[list[int]]:
    stream = SceneTilling(k=1, causal_alpha=alpha, max_segment_frames=max_segment_frames).stream()
    history = []
    for cls in frames_of(curve):
        stream.push(cls)
        history.append(stream.declared())
    return history


def random_curves(count: int) -> list[list[float]]:
    generator = torch.Generator().manual_seed(0)
    curves = []
    for trial in range(count):
        levels, length = (1, 2, STEPS)[trial % 3], 3 + trial % 28
        curves.append((torch.randint(-levels, levels + 1, (length,), generator=generator) / STEPS).tolist())
    return curves


RAMP = [step / STEPS for step in range(-STEPS, STEPS + 1)]
ADVERSARIAL = {
    "constant, then a fall": [0.5] * 12 + [0.0],
    "rising": RAMP,
    "falling": RAMP[::-1],
    "falling in plateaus": [level for level in RAMP[::-1] for _ in range(3)],
    "peak and valley": RAMP + RAMP[::-1] + RAMP + [-1.0],
    "saw": [1.0, -1.0] * 12,
    "plateau in a valley": [1.0, 0.5, 0.5, 0.5, 1.0, 0.25, 0.25, 0.75, 0.75, -0.5, 1.0, 0.0],
    "shallow valleys, then a deep one": [1.0, 0.875] * 8 + [-1.0, 1.0, 0.875],
}


def test_class_vectors_have_the_similarities_of_the_curve() -> None:
    for curve in [*ADVERSARIAL.values(), *random_curves(12)]:
        assert adjacent_similarity(frames_of(curve)).tolist() == curve


@pytest.mark.parametrize("max_segment_frames", [None, 1, 4])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.3])
def test_causal_rule_equals_its_definition_after_every_frame_of_random_curves(
    alpha: float, max_segment_frames: int | None
) -> None:
    num_compared = num_declared = 0
    for curve in random_curves(150):
        try:
            expected = declared_by_definition(curve, alpha, max_segment_frames)
        except ArithmeticError:
            continue
        assert declared_after_each_frame(curve, alpha, max_segment_frames) == expected
        num_compared += 1
        num_declared += len(expected[-1])
    assert num_compared > 75
    assert num_declared > 75


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_causal_rule_equals_its_definition_after_every_frame_of_adversarial_curves(name: str) -> None:
    for alpha in (0.17, 0.61, 1.29):
        for max_segment_frames in (None, 5):
            expected = declared_by_definition(ADVERSARIAL[name], alpha, max_segment_frames)
            assert declared_after_each_frame(ADVERSARIAL[name], alpha, max_segment_frames) == expected


def test_depths_that_are_all_equal_are_never_declared() -> None:
    assert declared_after_each_frame(ADVERSARIAL["constant, then a fall"], 0.0, None)[-1] == []


def test_depth_exactly_at_the_threshold_is_not_declared_and_one_just_above_is() -> None:
    curve = [1.0, 1.0, 1.0, 0.5, 0.25]  # final depths 0, 0, 0, 0.5: mean 0.125, unbiased standard deviation 0.25
    assert declared_after_each_frame(curve, 1.5, None)[-1] == []
    assert declared_after_each_frame(curve, 1.499, None)[-1] == [3]
