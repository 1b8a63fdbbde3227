from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from components.bridges.short_and_long_memory import ShortAndLongMemory, expanded_positions
from components.merging.frame_sequences import FrameSequence, merge_frames
from tests.components.readers.reader_runs import DIM, LENGTHS, OUT_DIM, make_segments, walk


def frames(*lengths: int) -> FrameSequence:
    """Random frames of three tokens of width five; what is masked holds garbage."""
    tokens = torch.randn(len(lengths), max(lengths), 3, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return FrameSequence.of_frames(tokens.masked_fill(~mask[..., None, None], 1e3), mask)


def merged_by_hand(tokens: Tensor, limit: int, *, as_published: bool) -> Tensor:
    """Merge with a slow loop."""
    left = [(frame, 1.0) for frame in tokens]
    while len(left) > limit:
        pairs = list(pairwise(left))
        if as_published:
            similarity = [float((a @ b.T).mean()) for (a, _), (b, _) in pairs]
        else:
            similarity = [float(functional.cosine_similarity(a, b, dim=1).mean()) for (a, _), (b, _) in pairs]
        index = similarity.index(max(similarity))
        (one, size), (other, other_size) = pairs[index]
        share = 0.5 if as_published else size / (size + other_size)
        left[index : index + 2] = [(share * one + (1 - share) * other, size + other_size)]
    return torch.stack([frame for frame, _ in left])


@pytest.mark.parametrize("as_published", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 4])
def test_merging_equals_a_slow_loop(limit: int, as_published: bool) -> None:
    given = frames(7, 2, 5, 1)
    merged = merge_frames(given, limit, as_published=as_published)
    for video, count in enumerate(given.num_real.tolist()):
        expected = merged_by_hand(given.tokens[video, :count], limit, as_published=as_published)
        torch.testing.assert_close(merged.tokens[video, : len(expected)], expected)
        assert int(merged.num_real[video]) == len(expected)


def test_the_mean_of_all_frames_stays_with_weights() -> None:
    merged = merge_frames(frames(9), 3)
    mean = (merged.tokens * merged.sizes[:, :, None, None]).sum(dim=1) / merged.sizes.sum()
    torch.testing.assert_close(mean, frames(9).tokens.mean(dim=1))
    assert merged.sizes.sum().item() == 9


def test_of_equal_frames_the_first_are_merged() -> None:
    tokens = torch.ones(1, 4, 2, 3)
    merged = merge_frames(FrameSequence.of_frames(tokens, torch.ones(1, 4, dtype=torch.bool)), 2)
    assert merged.sizes.tolist() == [[3.0, 1.0]]
    assert torch.equal(merged.tokens, tokens[:, :2])


def test_last_frames_of_ragged_videos() -> None:
    given = frames(5, 2)
    last = given.last(3)
    assert last.num_real.tolist() == [3, 2]
    assert torch.equal(last.tokens[0], given.tokens[0, 2:5])
    assert torch.equal(last.tokens[1, :2], given.tokens[1, :2])
    assert last.sizes.tolist() == [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]


def test_the_long_memory_is_bounded_and_counts_every_frame() -> None:
    memory = ShortAndLongMemory(DIM, OUT_DIM, frames_a_segment=2, long_length=4)
    state = walk(memory, make_segments([[3] * 9, [2]]))
    assert state.tokens.shape[:2] == (2, 4)
    assert state.sizes.sum(dim=1).tolist() == [27.0, 2.0]
    assert [int(video) for video in walk(memory, make_segments(LENGTHS)).num_real] == [4, 2, 3]


def test_a_short_memory_of_few_frames_reads_the_last_ones() -> None:
    memory = ShortAndLongMemory(DIM, OUT_DIM, short_length=2, frames_a_segment=2, long_length=4)
    [segment] = make_segments([[5]])
    assert torch.equal(walk(memory, [segment]).tokens, segment.grid(memory)[:, 3:])


def test_positions_differ_and_keep_the_learned_ones_nearly() -> None:
    learned = torch.randn(3, 4)
    expanded = expanded_positions(learned)
    assert len({tuple(row) for row in expanded.tolist()}) == 9
    torch.testing.assert_close(expanded[:3], learned, atol=0.1, rtol=0)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 18, 0 and 256"):
        ShortAndLongMemory(DIM, OUT_DIM, frames_a_segment=0)
    with pytest.raises(ValueError, match="3 positions expand to 9, but the long memory has 10 frames"):
        ShortAndLongMemory(DIM, OUT_DIM, long_length=10, num_positions=3)
