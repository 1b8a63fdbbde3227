import pytest
import torch
from torch.nn import functional

from benchmarks.parity.baselines.published_forms.bounded_frames import bounded_frames
from benchmarks.parity.baselines.published_forms.moviechat_long_buffer import merge_unlike_frames
from benchmarks.parity.baselines.published_forms.qwen_frames import grid_positions, half_resolution
from benchmarks.parity.baselines.published_forms.videoscan_sequences import cache_entries, with_appended_carriers


def test_the_most_similar_neighbours_are_merged_at_the_position_of_the_later_one() -> None:
    frames = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    left = bounded_frames(frames, 2, rule="merge")
    assert left.frames.tolist() == [[2.0, 0.0], [0.0, 1.0]]
    assert left.members == [[0, 1], [2]]


def test_frames_that_are_far_apart_may_be_merged_among_all_pairs() -> None:
    frames = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    left = bounded_frames(frames, 2, rule="merge", all_pairs=True)
    assert left.frames.tolist() == [[0.0, 1.0], [2.0, 0.0]]
    assert left.members == [[1], [0, 2]]


def test_a_coin_says_which_of_the_two_is_dropped() -> None:
    frames = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    for all_pairs, of_coin in ((False, {0: [1, 2], 1: [0, 2]}), (True, {0: [0, 2], 1: [1, 2]})):
        for coin, expected in of_coin.items():
            left = bounded_frames(frames, 2, rule="drop", all_pairs=all_pairs, coins=[coin])
            assert [number for [number] in left.members] == expected
    assert bounded_frames(frames, 2, rule="drop").members == [[1], [2]]


def test_similarities_are_those_of_the_frames_that_are_left() -> None:
    left = bounded_frames(torch.randn(9, 4), 4, rule="merge")
    torch.testing.assert_close(left.similarity, functional.cosine_similarity(left.frames[:-1], left.frames[1:]))
    assert sorted(number for members in left.members for number in members) == list(range(9))


def test_few_frames_stay() -> None:
    frames = torch.randn(3, 4)
    left = bounded_frames(frames, 5, rule="drop")
    assert torch.equal(left.frames, frames)
    assert left.members == [[0], [1], [2]]


def test_positions_have_the_frames_time_and_the_tokens_row_and_column() -> None:
    expected = [[7, 7, 7, 7, 2, 2, 2, 2], [0, 0, 1, 1] * 2, [0, 1] * 4]
    assert grid_positions(torch.tensor([7, 2]), 2, 2).tolist() == expected


def test_half_resolution_averages_every_four_pixels() -> None:
    pixels = torch.randn(3, 2, 4 * 2, 4 * 2)  # two frames of 4 x 4 patches with 2 x 2 pixels
    cut = pixels.reshape(3, 2, 2, 2, 2, 2, 2, 2).permute(2, 5, 3, 6, 0, 1, 4, 7).reshape(16, -1)
    halves = torch.nn.functional.avg_pool2d(pixels, 2)  # 2 x 2 patches
    expected = halves.reshape(3, 2, 2, 2, 2, 2).permute(2, 4, 0, 1, 3, 5).reshape(4, -1)
    torch.testing.assert_close(half_resolution(cut, (1, 4, 4)), expected)
    with pytest.raises(ValueError, match="height and width are divisible by 4"):
        half_resolution(cut, (1, 2, 8))


def test_the_published_long_buffer_needs_more_frames_than_it_leaves() -> None:
    assert merge_unlike_frames(torch.randn(2, 6, 3, 4), 4).shape == (2, 4, 3, 4)
    with pytest.raises(ValueError, match="needs more than 4 frames, got 4"):
        merge_unlike_frames(torch.randn(1, 4, 3, 4), 4)


def test_carriers_follow_their_frames_and_a_remainder_is_a_frame() -> None:
    tokens = torch.arange(5.0)[:, None]
    assert with_appended_carriers(tokens, 2)[:, 0].tolist() == [0.0, 1.0, 0.5, 2.0, 3.0, 2.5, 4.0, 4.0]


def test_entries_of_a_cache_that_stay() -> None:
    assert cache_entries((2, 3, 4, 2)).tolist() == [0, 1, 2, 3, 7]
    assert cache_entries((2, 3, 4, 2), (1,)).tolist() == [0, 1, 2, 7]
    attention = torch.tensor([[0.1, 0.5, 0.4], [0.1, 0.2, 0.7]])
    assert cache_entries((1, 3, 4, 1), attention=attention, num_more=2).tolist() == [0, 1, 2, 3, 5, 6, 7]
