"""The bridges to compare, each as one call from the encoder's features to the visual tokens."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.bridge.grid_forms import build_grid_memory, read_grid, read_original_grid
from benchmarks.bridge.original import MAX_FRAMES, NUM_CUTS, read_one_video
from components.bridges.grid_memory import GridMemory
from components.bridges.recurrent import RecurrentMemoryBridge
from components.bridges.videollamb_bridge import VideoLLaMBBridge
from components.interfaces import FrameFeatures, FrameSelection, Segmenter, VisualReader
from components.patches import ReadFrames, reduced_patches, without_unread_frames
from components.pooling.patch_pooling import GridPooling
from components.segmenters.scene_tilling import SceneTilling
from components.selection.all_frames import AllFrames
from components.selection.gather import group_frames, num_segments_of, segment_inputs
from components.selection.linspace_frames import LinspaceFrames

NUM_PATCHES = 16 * 16
GRID = 12
HEADS = 8
_DISTINCT_FRAMES = 61  # prime, so that frames at equal distances differ


class Widths(NamedTuple):
    """Width of the encoder and of the language model."""

    dim: int = 1024
    out_dim: int = 4096


class Form(NamedTuple):
    """A bridge, and how videos are passed to it."""

    build: Callable[[Widths], VisualReader[Any]]
    read: Callable[[VisualReader[Any], Tensor], Tensor]
    """Visual tokens ``[V, Q, E]`` of videos ``[V, T, 1 + N, D]``."""
    batches: bool
    """Whether one call takes several videos."""
    original: str
    """The form that computes as in the published code; times are relative to its."""
    same_numbers: bool = False
    """Whether tokens and gradients equal those of ``original``."""
    has_relu: bool = False
    """Whether gradients jump where an activation is zero up to rounding: on in one form, off in the other."""


def make_videos(num_videos: int, num_frames: int, dim: int) -> Tensor:
    """Random features of videos, ``[V, T, 1 + N, D]``, class token first; independent of the number of videos.

    Class tokens, which decide where a video is cut, are all different. Patches repeat those of a few frames.
    """
    distinct = torch.randn(_DISTINCT_FRAMES, NUM_PATCHES, dim, generator=torch.Generator().manual_seed(0))
    videos = torch.empty(num_videos, num_frames, 1 + NUM_PATCHES, dim)
    for seed, video in enumerate(videos):
        video[:, 0].normal_(generator=torch.Generator().manual_seed(seed))
        for frame, patches in enumerate(video[:, 1:]):
            patches.copy_(distinct[(seed + frame) % _DISTINCT_FRAMES])
    return videos


def build_published(widths: Widths) -> VideoLLaMBBridge:
    """The published form with random weights, without dropout. Memory tokens differ, so that errors are visible."""
    torch.manual_seed(0)
    bridge = VideoLLaMBBridge(widths.dim, widths.out_dim, num_heads=HEADS)
    torch.nn.init.normal_(bridge.initial_memory)
    return bridge.eval()


def build_default(widths: Widths) -> RecurrentMemoryBridge:
    """Our default form with open gates: every segment is stored in memory, which is the most work possible."""
    torch.manual_seed(0)
    bridge = RecurrentMemoryBridge(widths.dim, widths.out_dim, num_heads=HEADS)
    admit_everything(bridge)
    return bridge.eval()


def admit_everything(bridge: RecurrentMemoryBridge) -> None:
    """Open the gates of a selective memory, in place."""
    torch.nn.init.constant_(bridge.gate, 0.5)
    assert bridge.update is not None
    torch.nn.init.constant_(bridge.update.of_memory.bias, 5.0)


def _read_original(bridge: VisualReader[Any], videos: Tensor) -> Tensor:
    assert isinstance(bridge, VideoLLaMBBridge)
    (video,) = videos
    return read_one_video(bridge, video)


def _walk(bridge: VisualReader[Any], videos: Tensor, segmenter: Segmenter, frames: FrameSelection) -> Tensor:
    """Cut into segments, select frames, pool, and run the bridge, as ``VideoLanguageModel`` does."""
    num_videos, num_frames = videos.shape[:2]
    packed = videos.flatten(0, 1)
    counts = torch.full((num_videos,), num_frames)
    segment_index = segmenter.segment(packed[:, 0], counts)
    segments = group_frames(segment_index, counts, num_segments_of(segment_index, counts), frames)
    frame_ms = torch.arange(num_frames).repeat(num_videos)
    read = without_unread_frames(ReadFrames(FrameFeatures(packed[:, 0], packed[:, 1:]), frame_ms, {"": segments}))
    pooling = GridPooling(packed.shape[-1], grid=GRID)
    features = reduced_patches(read.features, None, pooling, packed.dtype)
    state = None
    for segment in segment_inputs(features, read.frame_ms, read.segments[""]):
        state = bridge(segment, state)
    return bridge.read(state).tokens


def _read_published(bridge: VisualReader[Any], videos: Tensor) -> Tensor:
    return _walk(bridge, videos, SceneTilling(k=NUM_CUTS), LinspaceFrames(MAX_FRAMES))


def _read_default(bridge: VisualReader[Any], videos: Tensor) -> Tensor:
    return _walk(bridge, videos, SceneTilling(k=NUM_CUTS), LinspaceFrames(MAX_FRAMES))


def _read_every_frame(bridge: VisualReader[Any], videos: Tensor) -> Tensor:
    segmenter = SceneTilling(k=NUM_CUTS, max_segment_frames=MAX_FRAMES)
    return _walk(bridge, videos, segmenter, AllFrames())


def _build_grid(widths: Widths) -> GridMemory:
    return build_grid_memory(widths.dim, HEADS)


def _read_original_grid(bridge: VisualReader[Any], videos: Tensor) -> Tensor:
    assert isinstance(bridge, GridMemory)
    return read_original_grid(bridge, videos)


def _read_grid(bridge: VisualReader[Any], videos: Tensor) -> Tensor:
    assert isinstance(bridge, GridMemory)
    return read_grid(bridge, videos)


FORMS = {
    "original": Form(build_published, _read_original, False, "original"),
    "published": Form(build_published, _read_published, True, "original", same_numbers=True),
    "default": Form(build_default, _read_default, True, "original"),
    "every_frame": Form(build_default, _read_every_frame, True, "original"),
    "original_grid_memory": Form(_build_grid, _read_original_grid, False, "original_grid_memory"),
    "grid_memory": Form(_build_grid, _read_grid, True, "original_grid_memory", same_numbers=True, has_relu=True),
}
