"""Banks of whole frames: which frames each holds, by its definition."""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from components.interfaces import SegmentInput
from components.positions import interleaved_sinusoid
from components.readers.frame_bank import FrameBank
from components.readers.last_frames import LastFrames
from components.readers.novel_frames import NovelFrames
from components.readers.random_frames import RandomFrames, random_numbers
from components.readers.similarity_merge import SimilarityMerge
from tests.components.readers.numbered_frames import WIDTH, numbered, shown_frames
from tests.components.readers.reader_runs import read, walk

BANKS = [LastFrames, RandomFrames, NovelFrames, SimilarityMerge]
every_bank = pytest.mark.parametrize("bank", BANKS)


def plain(bank: Any, num_frames: int, **options: Any) -> FrameBank:
    """A bank that shows the patches as they are."""
    made: FrameBank = bank(WIDTH, WIDTH, num_frames=num_frames, projection="none", **options)
    return made


def cut(frames: Tensor, lengths: Sequence[int]) -> list[SegmentInput]:
    """Frames ``[T, N, D]`` of one video as segments of these lengths."""
    segments, first = [], 0
    for length in lengths:
        number = torch.arange(first, first + length)[None]
        mask = torch.ones(1, length, dtype=torch.bool)
        tokens = frames[first : first + length].flatten(0, 1)[None]
        segments.append(SegmentInput(tokens, mask, 500 * number, number, frames.shape[1]))
        first += length
    return segments


def drawn_frames(number: int, *, seed: int = 0, scenes: int | None = None) -> Tensor:
    """Random frames ``[T, 4, D]``; with ``scenes`` each is exactly one of so many."""
    generator = torch.Generator().manual_seed(seed)
    if scenes is None:
        return torch.randn(number, 4, WIDTH, generator=generator)
    different = torch.randn(scenes, 4, WIDTH, generator=generator)
    return different[torch.randint(scenes, (number,), generator=generator)]


def held_numbers(bank: FrameBank, frames: Tensor, lengths: Sequence[int]) -> list[int]:
    visual = read(bank, cut(frames, lengths))
    assert visual.places is not None
    return visual.places.frame[0][visual.mask[0]][:: frames.shape[1]].tolist()


@pytest.mark.parametrize("length", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("cuts", [1, 2, 7])
def test_last_frames_are_the_newest_in_order(length: int, cuts: int) -> None:
    lengths = [min(cuts, length - first) for first in range(0, length, cuts)]
    assert shown_frames(read(plain(LastFrames, 3), numbered([lengths]))) == list(range(length))[-3:]


def test_last_frames_are_each_videos_own() -> None:
    visual = read(plain(LastFrames, 3), numbered([[3, 3, 1], [2], [1, 1]]))
    assert [shown_frames(visual, video) for video in range(3)] == [[4, 5, 6], [0, 1], [0, 1]]


def test_random_frames_are_those_of_the_highest_numbers_at_every_length() -> None:
    values = random_numbers(torch.arange(40), 3).tolist()
    for length in range(1, 41):
        expected = sorted(sorted(range(length), key=lambda index: -values[index])[:4])
        assert shown_frames(read(plain(RandomFrames, 4, seed=3), numbered([[length]]))) == expected


def test_random_frames_differ_by_seed_and_hold_every_frame_equally_often() -> None:
    bank_of_seed = [random_numbers(torch.arange(20), seed).topk(5).indices.tolist() for seed in range(2000)]
    counts = Counter(index for held in bank_of_seed for index in held)
    # 500 each are expected; the standard deviation is below 20.
    assert set(counts) == set(range(20))
    assert min(counts.values()) > 400
    assert max(counts.values()) < 600


def test_random_numbers_repeat_rarely_and_are_spread_evenly() -> None:
    values = random_numbers(torch.arange(100_000), 0)
    assert len(values.unique()) > 99_000
    assert abs(values.mean().item() / 2**24 - 0.5) < 0.01
    lag = torch.corrcoef(torch.stack([values[:-1], values[1:]]))[0, 1]
    assert abs(lag.item()) < 0.02


def novel_by_definition(frames: Tensor, most: int) -> list[int]:
    """One frame after the other, in plain Python."""
    vectors = torch.nn.functional.normalize(frames.mean(dim=1), dim=-1).double()
    novelty: dict[int, float] = {}
    for new, vector in enumerate(vectors):
        distances = [float((vector - vectors[held]).square().sum() / 2) for held in novelty]
        novelty[new] = min(distances, default=2.0)
        if len(novelty) > most:
            least = min(novelty.values())
            del novelty[max(held for held, value in novelty.items() if value == least)]
    return sorted(novelty)


@pytest.mark.parametrize("scenes", [None, 2, 6])
@pytest.mark.parametrize("most", [1, 3, 8])
def test_novel_frames_are_those_of_the_definition_at_any_cut(most: int, scenes: int | None) -> None:
    frames = drawn_frames(24, seed=most, scenes=scenes)
    expected = novel_by_definition(frames, most)
    for lengths in ([24], [1] * 24, [5, 5, 5, 9]):
        assert held_numbers(plain(NovelFrames, most), frames, lengths) == expected


def test_novel_frames_hold_the_first_frame_of_every_scene() -> None:
    frames = drawn_frames(3).repeat_interleave(torch.tensor([4, 2, 6]), dim=0)
    assert held_numbers(plain(NovelFrames, 3), frames, [4, 4, 4]) == [0, 4, 6]


def test_a_brighter_copy_of_a_frame_is_not_new() -> None:
    one, other = drawn_frames(2)
    frames = torch.stack([one, 2.0 * one, other])
    assert held_numbers(plain(NovelFrames, 2), frames, [3]) == [0, 2]


def merged_by_definition(frames: Tensor, most: int) -> tuple[Tensor, list[int]]:
    """Entries and the frame of each, one frame after the other, in plain Python."""
    entries: list[tuple[Tensor, int, int]] = []  # patches, frames, place
    for number, frame in enumerate(frames.double()):
        entries.append((frame, 1, number))
        if len(entries) <= most:
            continue
        pairs = [
            torch.nn.functional.cosine_similarity(one[0], other[0], dim=-1).mean().item()
            for one, other in pairwise(entries)
        ]
        at = pairs.index(max(pairs))
        (one, size_one, place_one), (other, size_other, place_other) = entries[at : at + 2]
        mean = (one * size_one + other * size_other) / (size_one + size_other)
        place = place_other if size_other > size_one else place_one
        entries[at : at + 2] = [(mean, size_one + size_other, place)]
    return torch.stack([entry[0] for entry in entries]).float(), [entry[2] for entry in entries]


@pytest.mark.parametrize("most", [1, 3, 8, 30])
@pytest.mark.parametrize("lengths", [[24], [1] * 24, [5, 5, 5, 9]])
def test_merged_frames_are_those_of_the_definition(most: int, lengths: list[int]) -> None:
    frames = drawn_frames(24, seed=most)
    expected, places = merged_by_definition(frames, most)
    bank = plain(SimilarityMerge, most)
    shown = read(bank, cut(frames, lengths)).tokens[0].unflatten(0, (-1, 4))
    torch.testing.assert_close(shown, expected, rtol=1e-5, atol=1e-5)
    assert held_numbers(bank, frames, lengths) == places


def test_sizes_of_merged_entries_add_up_to_the_frames() -> None:
    state = walk(plain(SimilarityMerge, 3), numbered([[3, 3, 4], [2], [1, 7]]))
    assert state.held.score.sum(dim=1).tolist() == [10, 2, 8]
    assert (state.held.score > 0).sum(dim=1).tolist() == [3, 2, 3]


def test_equal_frames_merge_to_themselves_and_first() -> None:
    one, other, third = drawn_frames(3)
    frames = torch.stack([one, other, other, other, third])
    state = walk(plain(SimilarityMerge, 3), cut(frames, [5]))
    assert torch.equal(state.held.frames.tokens[0], torch.stack([one, other, third]))
    assert state.held.score[0].tolist() == [1, 3, 1]


def test_a_bank_of_one_entry_is_the_mean_of_all_frames() -> None:
    frames = drawn_frames(50)
    shown = read(plain(SimilarityMerge, 1), cut(frames, [7] * 7 + [1])).tokens[0]
    torch.testing.assert_close(shown, frames.mean(dim=0), rtol=1e-5, atol=1e-5)


def test_every_frame_has_its_share_in_the_gradient_of_a_merged_entry() -> None:
    frames = drawn_frames(6).requires_grad_()
    read(plain(SimilarityMerge, 1), cut(frames, [4, 2])).tokens.sum().backward()
    torch.testing.assert_close(frames.grad, torch.full_like(frames, 1 / 6))


@every_bank
def test_masked_segments_leave_the_held_frames_as_they_are(bank: Any) -> None:
    reader = plain(bank, 3)
    segments = numbered([[3, 1, 2], [2]])
    before = walk(reader, segments[:1])
    after = walk(reader, segments)
    for field, earlier in zip(after.held.frames, before.held.frames, strict=True):
        is_held = before.held.frames.order[1] >= 0
        assert torch.equal(field[1][after.held.frames.order[1] >= 0], earlier[1][is_held])
    assert after.num_read.tolist() == [6, 2]


@every_bank
@pytest.mark.parametrize("num_cells", [1, 4])
def test_half_precision_is_kept_and_equal_frames_are_no_problem(bank: Any, num_cells: int) -> None:
    frames = torch.ones(9, num_cells, WIDTH, dtype=torch.bfloat16)
    visual = read(plain(bank, 4), cut(frames, [4, 5]))
    assert visual.tokens.dtype == torch.bfloat16
    assert visual.mask.sum() == 4 * num_cells
    assert torch.equal(visual.tokens, torch.ones_like(visual.tokens))


@every_bank
def test_positions_are_those_of_the_frames_in_the_video(bank: Any) -> None:
    frames = drawn_frames(7)
    bare = read(plain(bank, 3), cut(frames, [4, 3]))
    marked = read(plain(bank, 3, frame_positions=True), cut(frames, [4, 3]))
    assert bare.places is not None
    torch.testing.assert_close(marked.tokens, bare.tokens + interleaved_sinusoid(bare.places.frame, WIDTH))


@every_bank
def test_a_bank_without_room_is_refused(bank: Any) -> None:
    with pytest.raises(ValueError, match="num_frames must be at least 1, got 0"):
        plain(bank, 0)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="seed must be at least 0 and below"):
        RandomFrames(WIDTH, WIDTH, seed=seed)


def test_the_choice_does_not_depend_on_the_order_of_videos() -> None:
    videos = [drawn_frames(9, seed=seed) for seed in range(3)]
    order = random.Random(0).sample(range(3), 3)
    alone = [held_numbers(plain(NovelFrames, 3), video, [9]) for video in videos]
    rows = [cut(videos[index], [9])[0] for index in order]
    together = read(
        plain(NovelFrames, 3),
        [SegmentInput(*(torch.cat(field) for field in list(zip(*rows, strict=True))[:4]), rows[0].num_cells)],
    )
    assert together.places is not None
    assert together.places.frame[:, ::4].tolist() == [alone[index] for index in order]
