"""SceneTilling on an accelerator that is not CUDA gives the segments of the CPU and asks the device once."""

from typing import Any

import pytest

from tests.child_program import results_of

PROGRAM = """
import torch
from components.segmenters.depth import adjacent_similarity
from components.segmenters.scene_tilling import SceneTilling
from tests.components.segmenters.test_segmenters_scene_tilling import RECORDED, TENSORS
from tests.pretend_device import PretendedDevice, PretendedTensor

results = {"differences": {}, "segments": [], "alone": [], "equal": [], "waits": []}
segmenters = [SceneTilling(k=3), SceneTilling(alpha=0.5), SceneTilling(alpha=0.3, max_cuts=4, max_segment_frames=3)]
videos = {case: TENSORS[f"{case}.features"] for case in RECORDED}
videos |= {f"width {dim}": torch.randn(40, dim) for dim in (1, 3, 64, 99)} | {"half": torch.randn(20, 8).bfloat16()}
for name, video in videos.items():
    on_device = PretendedTensor(video)
    with PretendedDevice() as device:
        similarity = adjacent_similarity(on_device)
        pairs = [adjacent_similarity(on_device[frame : frame + 2]) for frame in range(len(video) - 1)]
    expected = adjacent_similarity(video)
    results["differences"][name] = float((similarity - expected).abs().max()) if len(expected) else 0.0
    results["alone"].append(torch.equal(torch.cat([*pairs, torch.empty(0)]), similarity))
    batch, counts = torch.cat([video, video[:7], video[:1]]), [len(video), len(video[:7]), 1]
    for segmenter in segmenters:
        with PretendedDevice() as device:
            segments = segmenter.segment(PretendedTensor(batch), torch.tensor(counts))
        results["segments"].append(segments.tolist() == segmenter.segment(batch, torch.tensor(counts)).tolist())
        results["waits"].append(len(device.waits))
    if video[0].any():
        with PretendedDevice():
            results["equal"] += adjacent_similarity(PretendedTensor(video[:1].expand(3, -1).clone())).tolist()
"""


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return dict(results_of(PROGRAM))


def test_similarity_is_that_of_the_cpu_up_to_rounding(results: dict[str, Any]) -> None:
    assert len(results["differences"]) > 5
    assert all(size < 1e-6 for size in results["differences"].values())


def test_segments_are_those_of_the_cpu(results: dict[str, Any]) -> None:
    assert results["segments"]
    assert all(results["segments"])


def test_similarity_of_a_pair_is_the_same_number_among_any_others(results: dict[str, Any]) -> None:
    assert all(results["alone"])


def test_equal_frames_have_similarity_one(results: dict[str, Any]) -> None:
    assert set(results["equal"]) == {1.0}


def test_host_waits_for_the_device_once(results: dict[str, Any]) -> None:
    assert set(results["waits"]) == {1}
