"""Videos in which few patches change from frame to frame, cut into segments."""

import torch
from torch import Tensor

from components.interfaces import SegmentInput, TokenPlaces

DIM = 8
NUM_CELLS = 6
LENGTHS = [[3, 2, 2], [4], [1, 3]]  # frames of every segment, of three videos


def make_video(num_frames: int, seed: int, *, changing: float = 0.4, dim: int = DIM) -> Tensor:
    """Patches ``[T, N, D]``, each new in about this share of the frames and nearly the same in the others."""
    generator = torch.Generator().manual_seed(seed)
    frames = [torch.randn(NUM_CELLS, dim, generator=generator)]
    for _ in range(num_frames - 1):
        is_new = torch.rand(NUM_CELLS, 1, generator=generator) < changing
        noise = torch.randn(NUM_CELLS, dim, generator=generator)
        frames.append(torch.where(is_new, noise, frames[-1] + 0.2 * noise))
    return torch.stack(frames)


def cut(
    videos: list[Tensor], lengths: list[list[int]], *, num_segments: int = 0, longest: int = 0
) -> list[SegmentInput]:
    """Segments of videos, padded with garbage, with a saliency for every patch."""
    num_segments = max(num_segments, *(len(video) for video in lengths))
    longest = max(longest, *(length for video in lengths for length in video))
    shape = (len(videos), num_segments, longest)
    patches = torch.full((*shape, *videos[0].shape[1:]), 1e3)
    mask = torch.zeros(shape, dtype=torch.bool)
    number = torch.zeros(shape, dtype=torch.int64)
    for row, (video, cuts) in enumerate(zip(videos, lengths, strict=True)):
        first = 0
        for segment, length in enumerate(cuts):
            patches[row, segment, :length] = video[first : first + length]
            mask[row, segment, :length] = True
            number[row, segment, :length] = torch.arange(first, first + length)
            first += length
    saliency = patches[..., 0].float()
    return [
        SegmentInput(
            patches[:, step].flatten(1, 2),
            mask[:, step],
            500 * number[:, step],
            number[:, step],
            patches.shape[3],
            saliency=saliency[:, step].flatten(1),
        )
        for step in range(num_segments)
    ]


def make_segments(
    lengths: list[list[int]] = LENGTHS, *, seeds: list[int] | None = None, num_segments: int = 0, longest: int = 0
) -> list[SegmentInput]:
    """Segments of slow videos; a video depends on its seed (its number by default) alone."""
    videos = [make_video(sum(cuts), seed) for cuts, seed in zip(lengths, seeds or range(len(lengths)), strict=True)]
    return cut(videos, lengths, num_segments=num_segments, longest=longest)


def as_grid(segment: SegmentInput) -> Tensor:
    """The patches of a full segment, ``[V, L, N, D]``."""
    return segment.grid("a test")


def frames_and_cells(segment: SegmentInput, video: int) -> list[tuple[int, int]]:
    """Frame and cell of every real token of a video, in order."""
    places: TokenPlaces = segment.places()
    mask = segment.token_mask[video]
    return list(zip(places.frame[video][mask].tolist(), places.cell[video][mask].tolist(), strict=True))
