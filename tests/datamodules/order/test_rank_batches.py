import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.order.batch_plan import Budget
from datamodules.order.rank_batches import EvaluationBatches, split_over_ranks
from tests.datamodules.order.sample_tables import mixed_table, table


@given(costs=st.lists(st.floats(0, 1e6), min_size=8, max_size=60), world=st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_every_draw_goes_to_one_rank_and_numbers_differ_by_at_most_one(costs: list[float], world: int) -> None:
    parts = split_over_ranks(costs, world)
    assert sorted(index for part in parts for index in part) == list(range(len(costs)))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert parts == split_over_ranks(costs, world)


def test_a_costly_draw_gets_cheap_company() -> None:
    costs = [100, 30, 30, 30, 30, 1, 1, 1]
    parts = split_over_ranks(costs, 2)
    assert sorted(sum(costs[index] for index in part) for part in parts) == [103, 120]  # 100 with all the ones


def test_draws_of_equal_cost_are_dealt_out_in_turn() -> None:
    assert split_over_ranks([0.0] * 6, 2) == [[0, 2, 4], [1, 3, 5]]


@given(num_samples=st.integers(1, 60), per_rank=st.integers(1, 5), world=st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_evaluation_reads_every_sample_once_in_equally_many_batches(
    num_samples: int, per_rank: int, world: int
) -> None:
    if num_samples < world:
        return
    options = {"batch_size": per_rank * world, "world_size": world}
    ranks = [list(EvaluationBatches(table([4] * num_samples), rank=rank, **options)) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    assert sorted(draw.sample for batches in ranks for batch in batches for draw in batch) == list(range(num_samples))
    assert all(1 <= len(batch) <= per_rank + 1 for batches in ranks for batch in batches)
    if world == 1:
        assert [draw.sample for batch in ranks[0] for draw in batch] == list(range(num_samples))


@given(num_samples=st.integers(6, 80), world=st.integers(1, 6), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_evaluation_within_a_budget_reads_every_sample_once(num_samples: int, world: int, seed: int) -> None:
    samples = mixed_table(num_samples, seed, num_conversations=1)
    options = {"budget": Budget(max_frames=100, max_tokens=400), "frame_tokens": 8.0, "world_size": world}
    ranks = [list(EvaluationBatches(samples, rank=rank, **options)) for rank in range(world)]
    steps = [[draw.sample for part in parts for draw in part] for parts in zip(*ranks, strict=True)]
    assert sorted(number for step in steps for number in step) == list(range(num_samples))
    assert [number for step in steps for number in sorted(step)] == list(range(num_samples))
    assert all(part for parts in ranks for part in parts)
    for step in steps:
        fits = samples.frames[step].sum() <= 100 and samples.tokens[step].sum() <= 400
        assert fits or len(step) < 2 * world


def test_evaluation_of_long_videos_takes_fewer_at_once() -> None:
    short, long = table([16] * 64), table([512] * 64)
    sizes = [{len(batch) for batch in EvaluationBatches(one, budget=Budget(max_frames=1024))} for one in (short, long)]
    assert sizes == [{64}, {2}]


def test_evaluation_of_some_samples_keeps_their_order() -> None:
    batches = EvaluationBatches(table([4] * 20), [7, 3, 11, 19, 0], batch_size=2)
    assert [draw.sample for batch in batches for draw in batch] == [7, 3, 11, 19, 0]


def test_lengths_that_are_unknown_leave_the_turns() -> None:
    unknown = EvaluationBatches(table([4, -1, 4, 900]), batch_size=4, frame_tokens=8.0, world_size=2)
    assert [[draw.sample for draw in batch] for batch in unknown] == [[0, 2]]


def test_fewer_samples_than_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="1 samples cannot be evaluated on 2 ranks"):
        EvaluationBatches(table([4]), batch_size=4, world_size=2)
    with pytest.raises(ValueError, match="3 draws cannot be split over 4 ranks"):
        split_over_ranks(np.ones(3), 4)
