import pytest
import torch
from torch import Tensor

from components.segmenters.scene_clusters import SceneClusters, longest_runs


def frames_of(*scenes: int, seed: int = 0) -> Tensor:
    """Patches ``[T, 4, 6]`` whose means tell the scene."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(10, 6, generator=torch.Generator().manual_seed(9)) * 10
    return centres[list(scenes)].unsqueeze(1) + 0.1 * torch.randn(len(scenes), 4, 6, generator=generator)


def cut(segmenter: SceneClusters, *videos: Tensor) -> list[int]:
    patches = torch.cat(videos)
    found: Tensor = segmenter.segment(patches[:, 0], torch.tensor([len(video) for video in videos]), patches)
    return found.tolist()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 0, 1, 1, 1], [0, 0, 1, 1, 1]),
        ([0, 0, 0, 1, 2, 2], [0, 0, 0, 0, 2, 2]),  # a run of one frame joins the longer neighbour
        ([0, 0, 1, 2, 2, 2], [0, 0, 2, 2, 2, 2]),
        ([0, 0, 1, 2, 2], [0, 0, 0, 2, 2]),  # the left one of equally long ones
        ([0, 0, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0]),  # frames before the first run
        ([0, 0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0, 0]),  # equally long runs all stay
        ([0, 1, 2], [0, 0, 0]),
        ([3], [0]),
    ],
)
def test_each_cluster_becomes_its_longest_run(labels: list[int], expected: list[int]) -> None:
    assert longest_runs(labels) == expected


def test_scenes_are_found_and_videos_of_a_batch_do_not_mix() -> None:
    segmenter = SceneClusters(cluster_rate=0.34, num_neighbours=3)
    one, other = frames_of(0, 0, 0, 1, 1, 1, 2, 2, 2), frames_of(3, 3, 4, 4, 4, 4, seed=1)
    assert cut(segmenter, one) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert (
        cut(segmenter, one, other)
        == [*cut(segmenter, one), *cut(segmenter, other)]
        == [
            *([0] * 3 + [1] * 3 + [2] * 3),
            *([0] * 2 + [1] * 4),
        ]
    )


def test_videos_shorter_than_the_neighbours_or_the_rate_are_one_segment_or_more() -> None:
    segmenter = SceneClusters()
    assert cut(segmenter, frames_of(0)) == [0]
    assert cut(segmenter, frames_of(0, 1, 2)) == [0, 0, 0]
    assert cut(segmenter, frames_of(0, 0, 0, 1)) == [0, 0, 0, 0]


def test_equal_frames_are_cut_the_same_way_every_time() -> None:
    equal = torch.ones(8, 4, 6)
    found = cut(SceneClusters(), equal)
    assert found == [0] * 8


def test_it_cannot_stream() -> None:
    assert SceneClusters().stream() is None


def test_it_says_that_it_reads_patches() -> None:
    with pytest.raises(ValueError, match="reads the patches"):
        SceneClusters().segment(torch.zeros(2, 3), torch.tensor([2]))


@pytest.mark.parametrize("settings", [{"cluster_rate": 0.0}, {"cluster_rate": 1.5}, {"num_neighbours": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        SceneClusters(**settings)  # type: ignore[arg-type]
