import torch
from torch.nn import functional

from components.merging.bounded_frames import bounded_frames


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
