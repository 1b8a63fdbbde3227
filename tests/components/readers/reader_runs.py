"""Random segments for small readers, and what readers show of them."""

from typing import Any

import torch
from torch import Tensor

from components.interfaces import KeptTokens, Questions, SegmentInput, VisualReader, VisualTokens

DIM = 16


OUT_DIM = 12


NUM_PATCHES = 4


MILLISECONDS_A_FRAME = 500


LENGTHS = [[2, 3, 1], [3], [1, 2]]  # frames of every segment, of three videos


def assert_same(one: Tensor, other: Tensor) -> None:
    """Check that two tensors differ by rounding at most."""
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def make_segments(
    lengths: list[list[int]], *, seeds: list[int] | None = None, segments: int = 0, frames: int = 0
) -> list[SegmentInput]:
    """Segments of videos with random patches; what is masked holds garbage.

    A video's patches depend on its seed (its number by default) alone, not on the padding.
    """
    num_segments = max(segments, *(len(video) for video in lengths))
    longest = max(frames, *(length for video in lengths for length in video))
    patches = torch.full((len(lengths), num_segments, longest, NUM_PATCHES, DIM), 1e3)
    mask = torch.zeros(len(lengths), num_segments, longest, dtype=torch.bool)
    number = torch.full(mask.shape, 10**6)
    for row, (video, seed) in enumerate(zip(lengths, seeds or range(len(lengths)), strict=True)):
        content = torch.randn(sum(video), NUM_PATCHES, DIM, generator=torch.Generator().manual_seed(seed))
        first = 0
        for segment, length in enumerate(video):
            patches[row, segment, :length] = content[first : first + length]
            mask[row, segment, :length] = True
            number[row, segment, :length] = torch.arange(first, first + length)
            first += length
    times = number * MILLISECONDS_A_FRAME
    return [
        SegmentInput(patches[:, s].flatten(1, 2), mask[:, s], times[:, s], number[:, s], NUM_PATCHES)
        for s in range(num_segments)
    ]


def shortened(segment: SegmentInput, length: int) -> SegmentInput:
    """The segment without the frame groups after the first ``length``."""
    frames = (field[:, :length] for field in (segment.frame_mask, segment.frame_ms, segment.frame_number))
    end = length * segment.num_cells
    saliency = None if segment.saliency is None else segment.saliency[:, :end]
    return SegmentInput(segment.tokens[:, :end], *frames, segment.num_cells, saliency=saliency)


def with_kept(segment: SegmentInput, mask: Tensor) -> SegmentInput:
    """The segment of which a reducer has kept the tokens of ``mask [V, P]``; the others stay as padding."""
    return segment._replace(kept=KeptTokens(mask, segment.token_groups, segment.token_cells))


def in_order(segment: SegmentInput, columns: Tensor) -> SegmentInput:
    """The segment with these of its kept tokens, in this order."""
    assert segment.kept is not None
    kept = KeptTokens(*(field[:, columns] for field in segment.kept))
    return segment._replace(tokens=segment.tokens[:, columns], kept=kept)


def walk(reader: VisualReader[Any], segments: list[SegmentInput]) -> Any:
    """State after the segments."""
    state = None
    for segment in segments:
        state = reader(segment, state)
    return state


def questions_about(videos: list[int]) -> Questions:
    """A question about each of these videos, equal for equal numbers."""
    words = [torch.randn(4, OUT_DIM, generator=torch.Generator().manual_seed(100 + video)) for video in videos]
    mask = torch.ones(len(videos), 4, dtype=torch.bool)
    return Questions(torch.stack(words), mask, torch.arange(len(videos))[:, None])


def read_state(reader: VisualReader[Any], state: Any, videos: list[int]) -> VisualTokens:
    """What the reader shows of a state, to a question about each of the videos if it reads questions."""
    return reader.read(state, questions_about(videos) if reader.reads_questions else None)


def read(reader: VisualReader[Any], segments: list[SegmentInput], videos: list[int] | None = None) -> VisualTokens:
    """What the reader shows after the segments of these videos; 0, 1, ... by default."""
    return read_state(reader, walk(reader, segments), videos or list(range(len(segments[0].tokens))))


def real(visual: VisualTokens, video: int) -> Tensor:
    """Real visual tokens of one video."""
    return visual.tokens[video][visual.mask[video]]
