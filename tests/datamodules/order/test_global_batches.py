from collections import Counter
from itertools import accumulate, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.batches import WAYS, make_batches, make_samples, measure
from datamodules.order.batch_plan import Budget
from datamodules.order.draws import MODALITIES, SampleTable
from datamodules.order.global_batches import GlobalBatches
from datamodules.order.rank_batches import TrainingBatches
from datamodules.order.training_order import CurriculumStage, Draw, TrainingOrder
from tests.datamodules.order.sample_tables import (
    IMAGE,
    TEXT,
    VIDEO,
    batches_of,
    mixed_table,
    numbers,
    source,
    table,
    take,
)

GROUP_SIZE = 4
BUDGET = Budget(max_frames=400, max_tokens=3000, group_size=GROUP_SIZE)
ORDERS = st.builds(
    TrainingOrder,
    seed=st.integers(0, 5),
    window=st.sampled_from([7, 32, 1000]),
    modalities=st.sampled_from(["mixed", "separate"]),
    conversations_per_video=st.sampled_from([None, 1, 2]),
)
SIZES = st.lists(st.integers(30, 90), min_size=1, max_size=3)


def planned(sizes: list[int], order: TrainingOrder, *, fixed: bool, seed: int = 0) -> tuple[GlobalBatches, SampleTable]:
    """Batches of four within a pass over one shard of each size, by budget or of a fixed size."""
    samples = mixed_table(sum(sizes), seed)
    how = {"batch_size": GROUP_SIZE, "budget": None} if fixed else {"budget": BUDGET}
    return batches_of(source(0, *sizes), samples=samples, order=order, **how), samples


def conversations_of(draws: list[Draw], samples: SampleTable) -> Counter[int]:
    """How often every conversation was drawn."""
    first = samples.first_conversation
    seen: Counter[int] = Counter()
    for draw in draws:
        everything = range(int(first[draw.sample + 1] - first[draw.sample]))
        seen.update(int(first[draw.sample]) + item for item in draw.conversations or everything)
    return seen


@given(sizes=SIZES, order=ORDERS, fixed=st.booleans(), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_every_conversation_is_trained_on_once_a_pass(
    sizes: list[int], order: TrainingOrder, fixed: bool, seed: int
) -> None:
    batches, samples = planned(sizes, order, fixed=fixed, seed=seed)
    num_passes = 4
    draws = whole_batches(batches, num_passes * draws_of_a_pass(samples, order))
    seen = conversations_of(draws, samples)
    counts = np.array([seen[conversation] for conversation in range(len(samples.tokens))])
    assert np.abs(counts - num_passes).max() <= 1
    # So many draws hold all batches of their passes. What fills no group of its modality waits.
    most_waiting = len(MODALITIES) * (GROUP_SIZE - 1) * (order.conversations_per_video or 3)
    assert (num_passes - counts).clip(min=0).sum() <= most_waiting


def draws_of_a_pass(samples: SampleTable, order: TrainingOrder) -> int:
    counts = np.diff(samples.first_conversation)
    size = order.conversations_per_video
    return len(counts) if size is None else int((-(-counts // size)).sum())


def whole_batches(batches: GlobalBatches, count: int) -> list[Draw]:
    """Draws of whole batches, at least ``count`` of them."""
    draws: list[Draw] = []
    for batch, _ in batches.after(0):
        draws += batch
        if len(draws) >= count:
            return draws
    raise AssertionError("the batches have no end")


@given(order=ORDERS, fixed=st.booleans(), seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_from_any_border_on_the_batches_are_those_of_an_uninterrupted_run(
    order: TrainingOrder, fixed: bool, seed: int
) -> None:
    straight = take(planned([60, 30], order, fixed=fixed, seed=seed)[0], 0, 60)
    borders = list(accumulate(map(len, straight), initial=0))
    fresh = planned([60, 30], order, fixed=fixed, seed=seed)[0]
    for number in (0, 1, 17, 40, 59):
        assert take(fresh, borders[number], 60 - number) == straight[number:]
    for start, number in ((0, 60), (17, 0), (17, 20), (17, 43), (40, 10)):
        assert fresh.consumed_after(borders[start], number) == borders[start + number]
    assert [draw.position for batch in straight for draw in batch] == list(range(borders[-1]))


@given(order=ORDERS, seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_batches_keep_their_budget_and_hold_full_groups_of_every_modality(order: TrainingOrder, seed: int) -> None:
    batches, samples = planned([90], order, fixed=False, seed=seed)
    for batch in take(batches, 0, 50):
        found = np.array([draw.sample for draw in batch])
        tokens = sum(samples.tokens[item] * count for item, count in conversations_of(batch, samples).items())
        assert samples.frames[found].sum() <= 400
        assert tokens <= 3000
        kinds = Counter(samples.modality[found].tolist())
        assert all(count % GROUP_SIZE == 0 for count in kinds.values())
        assert len(kinds) == 1 or order.modalities == "mixed"


def test_separate_batches_keep_the_shares_of_the_modalities() -> None:
    modality = [VIDEO] * 100 + [IMAGE] * 50 + [TEXT] * 6
    samples = table([1] * 150 + [0] * 6, modality=modality)
    batches = batches_of(source(0, 156), samples=samples, order=TrainingOrder(modalities="separate"), batch_size=8)
    kinds = [{modality[draw.sample] for draw in batch} for batch in take(batches, 0, 194)]  # ten passes
    assert {len(kind) for kind in kinds} == {1}
    counts = Counter(kind for batch in kinds for kind in batch)
    assert counts == {VIDEO: 125, IMAGE: 62, TEXT: 7}  # of 1000, 500 and 60 draws


def test_mixed_batches_keep_the_shares_of_the_modalities_in_every_batch() -> None:
    samples = mixed_table(2000, 0, num_conversations=1)
    batches = batches_of(
        source(0, 2000), samples=samples, budget=Budget(max_frames=1600, max_tokens=20_000, group_size=2)
    )
    for batch in take(batches, 0, 20):
        videos = np.mean(samples.modality[[draw.sample for draw in batch]] == VIDEO)
        assert abs(videos - 0.5) < 0.12


def test_a_budget_groups_videos_of_like_length() -> None:
    def padded(batches: GlobalBatches) -> float:
        lengths = [samples.frames[[draw.sample for draw in batch]] for batch in take(batches, 0, 25)]
        return sum(part.max() * len(part) for part in lengths) / sum(part.sum() for part in lengths)

    samples = table(np.random.default_rng(0).integers(1, 200, 1000).tolist())._replace(tokens=np.full(1000, 5))
    by_budget = batches_of(source(0, 1000), samples=samples, budget=Budget(max_frames=2000))
    fixed = batches_of(source(0, 1000), samples=samples, batch_size=20)
    assert padded(by_budget) < 1.2
    assert padded(fixed) > 1.7


def test_a_batch_is_made_of_one_window() -> None:
    window, size = 50, 1000
    order = TrainingOrder(window=window, shuffle_block=1)
    batches = batches_of(
        source(0, size), samples=table([1] * size), order=order, budget=Budget(max_frames=10, group_size=2)
    )
    for batch in take(batches, 0, 100):
        drawn = [draw.sample for draw in batch]  # one shard in blocks of one: the stream is 0, 1, 2, ...
        assert max(drawn) - min(drawn) < window
        assert len(batch) == 10


def test_conversations_of_a_video_are_grouped_anew_in_every_pass() -> None:
    samples = table([8] * 20, [7] * 20)
    order = TrainingOrder(conversations_per_video=3)
    batches = batches_of(source(0, 20), samples=samples, order=order)
    draws = whole_batches(batches, 120)
    passes = [draws[:60], draws[60:]]
    groups = [{(draw.sample, draw.conversations) for draw in one} for one in passes]
    for one in passes:
        assert conversations_of(one, samples) == Counter(range(140))
        assert {len(draw.conversations or ()) for draw in one} == {2, 3}
    assert len(groups[0] & groups[1]) < 10
    assert groups[0] == {(draw.sample, draw.conversations) for draw in whole_batches(batches, 60)}


def test_a_curriculum_in_batches_of_a_budget_ends_after_its_steps() -> None:
    samples = table([4] * 40 + [30] * 160)
    order = TrainingOrder(curriculum=[CurriculumStage(5, 4)])
    options = {"samples": samples, "order": order, "batches_a_step": 2, "budget": Budget(max_frames=240, group_size=4)}
    straight = take(batches_of(source(0, 200), **options), 0, 50)
    longest = [max(samples.frames[draw.sample] for draw in batch) for batch in straight]
    assert longest[:10] == [4] * 10
    assert 30 in longest[10:13]
    borders = list(accumulate(map(len, straight), initial=0))
    for number in (3, 10, 11, 30):
        fresh = batches_of(source(0, 200), **options)
        assert take(fresh, borders[number], 50 - number) == straight[number:]
        assert fresh.consumed_after(borders[3], number) == borders[3 + number]


def test_a_position_within_a_batch_is_refused() -> None:
    batches, _ = planned([60], TrainingOrder(), fixed=False)
    size = len(take(batches, 0, 1)[0])
    with pytest.raises(ValueError, match=rf"no global batch ends after {size - 1} draws"):
        next(batches.after(size - 1))


def test_an_epoch_is_as_many_batches_as_a_pass_fills() -> None:
    batches, samples = planned([80], TrainingOrder(), fixed=False)
    sizes = [len(draws) for draws, _ in islice(batches.after(0), batches.batches_per_pass + 1)]
    assert sum(sizes[:-1]) <= len(samples.frames) < sum(sizes)
    assert len(TrainingBatches(batches, None, 0, 1, int)) == batches.batches_per_pass


@pytest.mark.parametrize("name", ["budget", "budget, separate", "batch_size 64"])
@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_ranks_have_equal_work_on_a_realistic_mixture(name: str, world_size: int) -> None:
    found = measure(make_batches(make_samples(12_000), *WAYS[name]), world_size, 140)
    assert found.within_limit >= 0.95
    assert found.lost <= 1.02
    assert found.epoch <= 1.02


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(max_frames=79), r"max_frames 79 cannot hold a group of 8 draws of 10 frames.*raise it to 80"),
        (Budget(max_tokens=100), r"max_tokens 100 cannot hold a group of 8 draws of 27 tokens.*raise it to 216"),
        (Budget(max_frames=999), "does not limit text"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused_at_the_start(budget: Budget, message: str) -> None:
    samples = table([10] * 8 + [0], [2] + [1] * 8, [VIDEO] * 8 + [TEXT])
    samples = samples._replace(tokens=np.array([13, 14, *[9] * 8]))
    with pytest.raises(ValueError, match=message):
        batches_of(source(0, 9), samples=samples, budget=budget)


def test_a_pass_that_is_smaller_than_a_batch_fills_one_with_the_next_passes() -> None:
    batches = batches_of(source(0, 3), samples=table([1] * 3), budget=Budget(max_frames=8))
    assert sorted(Counter(numbers(batches, 0, 24)).values()) == [8, 8, 8]
    with pytest.raises(ValueError, match=r"less than one batch; lower budget.group_size or set trainer.max_steps"):
        TrainingBatches(batches, None, 0, 1, int)


def test_a_group_size_that_the_ranks_cannot_share_is_refused() -> None:
    batches = batches_of(source(0, 50), budget=Budget(max_frames=24))
    with pytest.raises(ValueError, match=r"budget.group_size 8 counts the samples of all ranks.*3 ranks"):
        TrainingBatches(batches, None, 0, 3, int)


@pytest.mark.parametrize("wrong", [{}, {"max_frames": 0}, {"max_frames": 1, "group_size": 0}])
def test_a_senseless_budget_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="max_frames"):
        Budget(**wrong)


def test_weights_of_sources_hold_in_a_budget_too() -> None:
    batches = batches_of(
        source(0, 100), source(100, 100, weight=2.0), samples=table([1] * 200), budget=Budget(max_frames=16)
    )
    seen = np.bincount(numbers(batches, 0, 2400), minlength=200)  # eight passes
    assert abs(seen[:100].sum() - 800) <= 8
    assert np.abs(seen[100:] - 16).max() <= 1
