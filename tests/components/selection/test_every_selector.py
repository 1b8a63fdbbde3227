"""What every choice of frames promises; ``FrameResampling`` is the contract."""

from collections.abc import Callable

import pytest
import torch

from components.interfaces import FrameResampling, WholeVideo
from components.selection.adaptive_frames import AdaptiveFrames, published_frames
from components.selection.best_frames import BestFrames, evenly_spaced
from components.selection.determinantal_frames import (
    DeterminantalFrames,
    SequentialDeterminantalFrames,
    frames_of_pieces,
)
from components.selection.diverse_frames import DiverseFrames
from components.selection.frames_by_share import FramesByShare, quantiles
from components.selection.greedy_determinant import greedy_determinant
from components.selection.key_clips import KeyClips, clip_anchors

SELECTORS: dict[str, Callable[[int], FrameResampling]] = {
    "best": BestFrames,
    "adaptive": AdaptiveFrames,
    "adaptive_never_halved": lambda frames: AdaptiveFrames(frames, most_halvings=0),
    "by_share": FramesByShare,
    "by_share_of_cubes": lambda frames: FramesByShare(frames, power=3.0),
    "determinantal": DeterminantalFrames,
    "determinantal_theta": lambda frames: DeterminantalFrames(frames, theta=0.7),
    "sequential": lambda frames: SequentialDeterminantalFrames(frames, piece=5),
    "sequential_one_piece": lambda frames: SequentialDeterminantalFrames(frames, piece=None),
    "diverse": DiverseFrames,
    "clips": lambda frames: KeyClips(frames, clips=3),
}
every_selector = pytest.mark.parametrize("make", SELECTORS.values(), ids=SELECTORS)


def video(num_frames: int, *, seed: int = 0, dim: int = 6) -> WholeVideo:
    """A video of random features, with their similarities to a random question."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.nn.functional.normalize(torch.randn(num_frames, dim, generator=generator), dim=1)
    question = torch.nn.functional.normalize(torch.randn(dim, generator=generator), dim=0)
    return WholeVideo.of_length(num_frames)._replace(features=features, scores=features @ question)


@every_selector
@pytest.mark.parametrize(("num_frames", "frames"), [(1, 1), (1, 4), (3, 4), (4, 4), (5, 4), (40, 7), (41, 1), (64, 33)])
def test_as_many_different_frames_as_asked_for_are_chosen_in_their_order(
    make: Callable[[int], FrameResampling], num_frames: int, frames: int
) -> None:
    chosen = make(frames).frame_index(video(num_frames))
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == min(frames, num_frames)
    assert 0 <= int(chosen.min()) <= int(chosen.max()) < num_frames


@every_selector
def test_equal_frames_are_no_failure(make: Callable[[int], FrameResampling]) -> None:
    same = WholeVideo.of_length(20)._replace(features=torch.ones(20, 3), scores=torch.full((20,), 0.3))
    chosen = make(6).frame_index(same)
    assert len(set(chosen.tolist())) == 6


@every_selector
def test_the_scale_of_features_and_scores_that_are_only_shifted_change_nothing(
    make: Callable[[int], FrameResampling],
) -> None:
    plain = video(30)
    assert plain.features is not None
    longer = plain._replace(features=plain.features * 7.0)
    assert torch.equal(make(8).frame_index(longer), make(8).frame_index(plain))
    if "Sequential" not in type(make(8)).__name__:  # it reads similarities as distances
        assert plain.scores is not None
        shifted = plain._replace(scores=plain.scores + 0.25)
        assert torch.equal(make(8).frame_index(shifted), make(8).frame_index(plain))


@every_selector
def test_what_is_missing_is_named(make: Callable[[int], FrameResampling]) -> None:
    part = make(4)
    bare = video(20)._replace(features=None, scores=None)
    with pytest.raises(ValueError, match="this video has none"):
        part.frame_index(bare)
    with pytest.raises(ValueError, match="frames must be at least 1, got 0"):
        make(0)


def test_the_best_frames_are_those_of_largest_score_and_of_equal_ones_the_first() -> None:
    scores = torch.tensor([0.1, 0.9, 0.5, 0.9, 0.5])
    given = WholeVideo.of_length(5)._replace(scores=scores)
    assert BestFrames(3).frame_index(given).tolist() == [1, 2, 3]


def test_one_moment_that_stands_out_gets_all_frames_and_a_flat_video_is_spread() -> None:
    peak = torch.zeros(64).index_fill(0, torch.arange(40, 44), 1.0)
    given = WholeVideo.of_length(64)._replace(scores=peak)
    assert AdaptiveFrames(4).frame_index(given).tolist() == [40, 41, 42, 43]
    noise = WholeVideo.of_length(64)._replace(scores=torch.rand(64, generator=torch.Generator().manual_seed(0)))
    chosen = AdaptiveFrames(8).frame_index(noise)
    assert torch.bincount(chosen // 8, minlength=8).tolist() == [1] * 8  # one of every eighth


def test_the_published_form_of_few_frames_is_empty_where_ours_is_not() -> None:
    scores = torch.rand(200, generator=torch.Generator().manual_seed(0)).double()
    assert published_frames(scores, 16, 0.8, 5).tolist() == []
    assert published_frames(torch.ones(200), 64, 0.8, 5).tolist() == []
    assert len(AdaptiveFrames(16).frame_index(WholeVideo.of_length(200)._replace(scores=scores))) == 16


def test_frames_stand_for_equal_shares_of_the_scores() -> None:
    scores = torch.tensor([0.0, 1.0, 1.0, 2.0, 4.0, 0.0]).double()
    assert quantiles(scores, 4, 1.0).tolist() == [2, 3, 4, 4]  # shares 1/4, 5/12, 7/12, 3/4 of 8
    given = WholeVideo.of_length(6)._replace(scores=scores)
    assert FramesByShare(4, as_published=True).frame_index(given).tolist() == [2, 3, 4, 4]
    assert FramesByShare(4).frame_index(given).tolist() == [1, 2, 3, 4]  # the best one left in place of the second 4


def test_the_greedy_choice_is_the_one_with_the_largest_determinant_each_time() -> None:
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(9, 9, generator=generator).double()
    kernel, bonus = factors @ factors.T, torch.randn(9, generator=generator).double()
    chosen = greedy_determinant(kernel, 5, bonus)
    for count in range(5):
        before = chosen.frames[:count]
        values = {
            each: float(torch.logdet(kernel[[*before, each]][:, [*before, each]]) + bonus[[*before, each]].sum())
            for each in range(9)
            if each not in before
        }
        assert chosen.frames[count] == max(values, key=values.__getitem__)
        assert chosen.scores[count] == pytest.approx(values[chosen.frames[count]])


def test_frames_that_are_explained_by_others_are_not_chosen() -> None:
    features = torch.eye(3).double().repeat(2, 1)
    assert sorted(greedy_determinant(features @ features.T, 5).frames) == [0, 1, 2]


def test_pieces_get_the_frames_with_which_the_scores_are_largest_together() -> None:
    generator = torch.Generator().manual_seed(1)
    factors = torch.randn(8, 8, generator=generator).double()
    kernel, bonus = factors @ factors.T / 8, torch.randn(8, generator=generator).double()
    found = frames_of_pieces(kernel, bonus, 3, 4, known=0)

    def score(counts: tuple[int, int]) -> float:
        parts = [
            greedy_determinant(kernel, count, bonus, candidates=range(start, start + 4)).scores
            for start, count in zip((0, 4), counts, strict=True)
        ]
        return sum(part[-1] if part else 0.0 for part in parts)

    best = max(((first, 3 - first) for first in range(4)), key=score)
    assert (sum(each < 4 for each in found), sum(each >= 4 for each in found)) == best


def test_the_frame_least_like_the_others_is_added_to_the_even_ones() -> None:
    features = torch.tensor([[1.0, 0.0]]).repeat(20, 1)
    features[13] = torch.tensor([-1.0, 0.1])
    chosen = DiverseFrames(5, even_share=0.8).frame_index(WholeVideo.of_length(20)._replace(features=features))
    assert chosen.tolist() == [0, 6, 12, 13, 19]


def test_clips_are_cut_around_the_peaks() -> None:
    scores = torch.zeros(30).double()
    scores[4:7] = torch.tensor([0.4, 0.9, 0.5]).double()
    scores[19:22] = torch.tensor([0.6, 0.8, 0.3]).double()
    assert clip_anchors(scores, 2) == [5, 20]
    features = torch.eye(30)
    given = WholeVideo.of_length(30)._replace(scores=scores, features=features)
    chosen = KeyClips(6, clips=2, length=5.0).frame_index(given)
    assert chosen.tolist() == [4, 5, 6, 19, 20, 21]
    alike = given._replace(features=torch.ones(30, 2))  # of alike frames one is enough, and the best others fill up
    assert KeyClips(2, clips=2, redundancy=9.0, length=0.0).frame_index(alike).tolist() == [5, 20]


def test_even_frames_are_spread_over_the_whole_video() -> None:
    assert evenly_spaced(10, 5).tolist() == [1, 3, 5, 7, 9]
    assert evenly_spaced(3, 5).tolist() == [0, 1, 2]
