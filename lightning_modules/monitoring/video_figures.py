"""Figures of videos. Drawn on matplotlib figures directly, without pyplot's global state."""

from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

_MOST_THUMBNAILS = 16
_THUMBNAIL_SIDE = 96  # pixels
_CUT = {"color": "tab:red", "linewidth": 1.2}


class SegmentedVideo(NamedTuple):
    """The data of one figure: a video of T frames in S segments."""

    title: str
    frames: Tensor | None  # uint8 [T, 3, H, W]; None with cached features
    segment_index: Tensor  # [T] int64
    similarity: Tensor  # [T - 1], of neighbouring frames
    depth: Tensor  # [T - 1], of the valleys of the similarity
    segment_attention: Tensor | None  # [Q, S], rows sum to 1; None where the readout does not attend to segments


def draw_video(video: SegmentedVideo) -> Figure:
    """Draw frames, similarity, depth and attention of a video over its frames, with lines between segments.

    Args:
        video: What to draw.

    Returns:
        A figure with two panels, or three with attention.
    """
    num_frames = len(video.segment_index)
    edges = segment_edges(video.segment_index)
    has_attention = video.segment_attention is not None
    figure = _figure(10.0, 6.0 if has_attention else 4.2)
    axes = figure.subplots(2 + has_attention, 1, sharex=True, squeeze=False)[:, 0]
    _draw_frames(axes[0], video.frames, num_frames)
    _draw_curves(axes[1], video.similarity, video.depth)
    if video.segment_attention is not None:
        _draw_attention(figure, axes[2], video.segment_attention, edges)
    for axis in axes:
        for edge in edges[1:-1]:
            axis.axvline(edge, **_CUT)
    axes[0].set_xlim(0, num_frames)
    axes[-1].set_xlabel("frame")
    note = "" if video.frames is not None else " - cached features, so there are no pixels to show"
    figure.suptitle(f"{video.title}: {num_frames} frames, {len(edges) - 1} segments{note}", fontsize=10)
    return figure


def draw_histogram(title: str, values: Tensor) -> Figure:
    """Draw how often each whole number occurs.

    Args:
        title: Title of the figure.
        values: ``[N]`` whole numbers.

    Returns:
        A figure with one bar for each number.
    """
    numbers, counts = np.unique(values.numpy(), return_counts=True)
    figure = _figure(6.0, 3.0)
    axis = figure.subplots()
    axis.bar(numbers.tolist(), counts.tolist(), color="tab:blue")
    axis.locator_params(integer=True)
    axis.set_title(title, fontsize=10)
    return figure


def picture_of(figure: Figure) -> NDArray[np.uint8]:
    """Pixels of a figure.

    Args:
        figure: A figure.

    Returns:
        ``[height, width, 3]`` uint8, RGB.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def segment_edges(segment_index: Tensor) -> list[int]:
    """First frame of every segment, and the number of frames at the end."""
    starts = (segment_index[1:] != segment_index[:-1]).nonzero().squeeze(1) + 1
    return [0, *starts.tolist(), len(segment_index)]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_frames(axis: Any, frames: Tensor | None, num_frames: int) -> None:
    axis.set_yticks([])
    axis.set_ylabel("frames")
    axis.set_ylim(0, 1)
    if frames is None:
        return
    shown = min(num_frames, _MOST_THUMBNAILS)
    width = num_frames / shown
    for index in range(shown):
        picture = _thumbnail(frames[int((index + 0.5) * width)])
        axis.imshow(picture.numpy(), extent=(index * width, (index + 1) * width, 0, 1), aspect="auto")


def _thumbnail(frame: Tensor) -> Tensor:
    """Subsample a frame ``[3, H, W]`` to a small ``[h, w, 3]``."""
    step = max(1, max(frame.shape[1:]) // _THUMBNAIL_SIDE)
    return frame[:, ::step, ::step].permute(1, 2, 0)


def _draw_curves(axis: Any, similarity: Tensor, depth: Tensor) -> None:
    gaps = torch.arange(1, len(similarity) + 1).numpy()  # the gap after frame i is at i + 1
    axis.plot(gaps, similarity.numpy(), marker=".", color="tab:blue")
    axis.set_ylabel("similarity", color="tab:blue")
    depth_axis = axis.twinx()
    depth_axis.plot(gaps, depth.numpy(), marker=".", linestyle="--", color="tab:orange")
    depth_axis.set_ylabel("depth", color="tab:orange")


def _draw_attention(figure: Figure, axis: Any, attention: Tensor, edges: list[int]) -> None:
    rows = torch.arange(len(attention) + 1).numpy()
    mesh = axis.pcolormesh(edges, rows, attention.numpy(), vmin=0.0, cmap="viridis")
    axis.invert_yaxis()
    axis.set_ylabel("readout query")
    figure.colorbar(mesh, ax=axis, label="attention", pad=0.01)
