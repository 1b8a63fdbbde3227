"""The grid memory and its original, each as one call from patches to visual tokens."""

import torch
from torch import Tensor

from benchmarks.bridge.original_grid_memory import SEGMENT_FRAMES, read_one_video
from components.bridges.grid_memory import GridMemory
from components.interfaces import FrameFeatures
from components.segmenters.fixed_length import FixedLength
from components.selection.all_frames import AllFrames
from components.selection.gather import group_frames, num_segments_of, segment_inputs

NUM_CELLS = 14 * 14


def build_grid_memory(dim: int, num_heads: int) -> GridMemory:
    """The grid memory of the published size with random weights."""
    torch.manual_seed(0)
    return GridMemory(dim, dim, num_cells=NUM_CELLS, num_heads=num_heads).eval()


def read_original_grid(reader: GridMemory, videos: Tensor) -> Tensor:
    """Visual tokens of one video ``[1, T, 1 + N, D]``, as the original computes them."""
    (video,) = videos
    return read_one_video(reader, video[:, 1 : 1 + NUM_CELLS])


def read_grid(reader: GridMemory, videos: Tensor) -> Tensor:
    """Visual tokens of videos ``[V, T, 1 + N, D]``. The first patches of a frame take the role of the pooled ones."""
    num_videos, num_frames = videos.shape[:2]
    patches = videos[:, :, 1 : 1 + NUM_CELLS].flatten(0, 1)
    counts = torch.full((num_videos,), num_frames)
    segment_index = FixedLength(SEGMENT_FRAMES).segment(patches[:, 0], counts)
    segments = group_frames(segment_index, counts, num_segments_of(segment_index, counts), AllFrames())
    frame_ms = torch.arange(num_frames).repeat(num_videos)
    state = None
    for segment in segment_inputs(FrameFeatures(patches[:, 0], patches), frame_ms, segments):
        state = reader(segment, state)
    assert state is not None
    return reader.read(state).tokens
