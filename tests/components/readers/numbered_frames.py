"""Segments whose frames can be told by their content."""

import torch

from components.interfaces import SegmentInput, VisualTokens
from tests.components.readers.reader_runs import NUM_PATCHES, make_segments

WIDTH = 4


def numbered(lengths: list[list[int]]) -> list[SegmentInput]:
    """Segments of frames whose patches all hold the frame's number in its video, plus 1000 for each video before."""
    segments = []
    for segment in make_segments(lengths):
        number = segment.frame_number + 1000 * torch.arange(len(lengths))[:, None]
        tokens = number.float().masked_fill(~segment.frame_mask, -1.0)
        tokens = tokens.repeat_interleave(NUM_PATCHES, dim=1)[..., None].expand(-1, -1, WIDTH)
        segments.append(segment._replace(tokens=tokens))
    return segments


def shown_frames(visual: VisualTokens, video: int = 0) -> list[int]:
    """Numbers of the frames that are shown, by their content; every patch of each is there."""
    content = visual.tokens[video][visual.mask[video]].unflatten(0, (-1, NUM_PATCHES))
    first = content[:, 0, 0]
    assert torch.equal(content, first[:, None, None].expand_as(content))
    return [int(number) - 1000 * video for number in first]
