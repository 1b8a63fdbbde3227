import io
from typing import Any

import pytest
import torch

from lightning_modules.monitoring.video_figures import SegmentedVideo, draw_video, segment_edges


def make_video(segment_index: list[int], *, pixels: bool = True, attention: bool = True) -> SegmentedVideo:
    num_frames, num_segments = len(segment_index), segment_index[-1] + 1
    return SegmentedVideo(
        title="clip",
        frames=torch.full((num_frames, 3, 200, 100), 200, dtype=torch.uint8) if pixels else None,
        segment_index=torch.tensor(segment_index),
        similarity=torch.rand(num_frames - 1),
        depth=torch.rand(num_frames - 1),
        segment_attention=torch.rand(4, num_segments).softmax(dim=1) if attention else None,
    )


def cuts(axis: Any) -> list[float]:
    """Places of an axis' vertical lines."""
    places = [list(line.get_xdata()) for line in axis.lines]
    return sorted(ends[0] for ends in places if len(ends) == 2 and ends[0] == ends[1])


def as_png(figure: Any) -> bytes:
    target = io.BytesIO()
    figure.savefig(target)
    return target.getvalue()


@pytest.mark.parametrize(
    ("segment_index", "edges"), [([0, 0, 1, 1, 1, 2], [0, 2, 5, 6]), ([0], [0, 1]), ([0, 0, 0], [0, 3])]
)
def test_edges_are_where_segments_begin_and_the_last_ends(segment_index: list[int], edges: list[int]) -> None:
    assert segment_edges(torch.tensor(segment_index)) == edges


def test_cuts_run_through_every_panel_at_the_segment_boundaries() -> None:
    figure = draw_video(make_video([0, 0, 1, 1, 1, 2]))
    panels = [axis for axis in figure.axes if axis.get_ylabel() in ("frames", "similarity", "readout query")]
    assert len(panels) == 3
    assert [cuts(axis) for axis in panels] == [[2, 5]] * 3
    assert figure._suptitle.get_text() == "clip: 6 frames, 3 segments"
    assert as_png(figure).startswith(b"\x89PNG")


def test_curve_points_lie_between_the_frames_that_they_compare() -> None:
    video = make_video([0, 0, 1])
    figure = draw_video(video)
    [curve] = [line for axis in figure.axes if axis.get_ylabel() == "similarity" for line in axis.lines[:1]]
    assert curve.get_xdata().tolist() == [1, 2]
    assert curve.get_ydata().tolist() == video.similarity.tolist()


@pytest.mark.parametrize(("num_frames", "shown"), [(1, 1), (5, 5), (100, 16)])
def test_thumbnails_cover_the_video_and_stay_few(num_frames: int, shown: int) -> None:
    figure = draw_video(make_video([0] * num_frames))
    images = figure.axes[0].images
    assert len(images) == shown
    assert images[0].get_extent()[0] == 0
    assert images[-1].get_extent()[1] == pytest.approx(num_frames)
    assert max(images[0].get_array().shape[:2]) <= 100  # thinned out from 200 pixels
    assert figure.axes[0].get_xlim() == (0, num_frames)


def test_cached_features_say_that_there_are_no_pixels() -> None:
    figure = draw_video(make_video([0, 1], pixels=False, attention=False))
    assert not figure.axes[0].images
    assert "cached features, so there are no pixels" in figure._suptitle.get_text()
    assert cuts(figure.axes[0]) == [1]
    assert "readout query" not in [axis.get_ylabel() for axis in figure.axes]
    assert as_png(figure).startswith(b"\x89PNG")
