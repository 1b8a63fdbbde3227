from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.order import (
    CurriculumStage,
    EvaluationBatches,
    SampleStream,
    SourceSamples,
    TrainingBatches,
    TrainingOrder,
    shuffled_pass,
)


def source(first: int, *sizes: int, weight: float = 1.0) -> SourceSamples:
    bounds = np.cumsum([first, *sizes])
    return SourceSamples(tuple(np.arange(start, end) for start, end in pairwise(bounds)), weight)


def stream(
    *sources: SourceSamples,
    batch_size: int = 1,
    num_batches: int | None = None,
    num_frames: np.ndarray | None = None,
    order: TrainingOrder = TrainingOrder(),  # noqa: B008
) -> SampleStream:
    total = sum(len(shard) for one in sources for shard in one.shards)
    lengths = np.ones(total, dtype=np.int64) if num_frames is None else num_frames
    return SampleStream(sources, lengths, order, batch_size, num_batches)


def numbers(drawn: SampleStream, start: int, count: int) -> list[int]:
    return [draw.sample for draw in drawn.draws(start, count)]


def test_every_sample_comes_exactly_once_an_epoch() -> None:
    drawn = stream(source(0, 7, 5), source(12, 9))
    epochs = [numbers(drawn, epoch * 21, 21) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(21)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_order_is_a_pure_function_of_seed_and_epoch() -> None:
    sources = [source(0, 7, 5), source(12, 9, weight=2.0)]
    straight = numbers(stream(*sources), 0, 90)
    fresh = stream(*sources)
    assert numbers(fresh, 60, 30) + numbers(fresh, 0, 60) == straight[60:] + straight[:60]
    assert numbers(stream(*sources, order=TrainingOrder(seed=1)), 0, 90) != straight


def test_weights_are_passes_an_epoch_and_what_is_left_out_comes_next() -> None:
    drawn = stream(source(0, 10), source(10, 10, weight=0.5), source(20, 10, weight=2.0))
    assert drawn.pass_length == 35
    first, second = (np.array(numbers(drawn, epoch * 35, 35)) for epoch in range(2))
    for epoch in (first, second):
        assert (np.bincount(epoch, minlength=30)[:10] == 1).all()
        assert (np.bincount(epoch, minlength=30)[20:] == 2).all()
    halves = [set(epoch[(epoch >= 10) & (epoch < 20)]) for epoch in (first, second)]
    assert len(halves[0]) == len(halves[1]) == 5
    assert halves[0] | halves[1] == set(range(10, 20))


def test_sources_are_mixed_and_not_one_after_the_other() -> None:
    drawn = np.array(numbers(stream(source(0, 500), source(500, 500)), 0, 1000))
    parts = [(part < 500).mean() for part in np.split(drawn, 10)]
    assert min(parts) > 0.3
    assert max(parts) < 0.7


def test_shuffled_pass_stays_near_in_the_shards() -> None:
    shards = [np.arange(start, start + 100) for start in range(0, 10_000, 100)]
    order = shuffled_pass(shards, 200, np.random.default_rng(0))
    assert sorted(order) == list(range(10_000))
    touched = [len({int(number) // 100 for number in order[start : start + 200]}) for start in range(0, 10_000, 200)]
    assert max(touched) <= 3
    assert len({int(number) // 100 for number in order[:4000]}) == 40


@given(
    world=st.sampled_from([1, 2, 3, 4, 6]),
    start=st.integers(0, 100),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
)
@settings(max_examples=30, deadline=None)
def test_ranks_together_read_the_same_global_batches(world: int, start: int, sizes: list[int]) -> None:
    drawn = stream(source(0, 12, *sizes), batch_size=12)
    ranks = [list(TrainingBatches(drawn, 12, rank, world, lambda: start)) for rank in range(world)]
    for step, parts in enumerate(zip(*ranks, strict=True)):
        together = sorted(draw for part in parts for draw in part)
        assert together == sorted(drawn.draws(start + step * 12, 12))
        assert all(len(part) == 12 // world for part in parts)


def test_what_fills_no_whole_batch_opens_the_next_epoch() -> None:
    drawn = stream(source(0, 10), batch_size=4)
    seen: list[int] = []
    batches = TrainingBatches(drawn, 4, 0, 1, lambda: len(seen))
    for _ in range(5):
        epoch = list(batches)
        assert len(epoch) == 2
        seen += [draw.sample for batch in epoch for draw in batch]
    assert all(sorted(seen[start : start + 10]) == list(range(10)) for start in range(0, 40, 10))


def test_position_tells_every_draw_from_every_other() -> None:
    drawn = stream(source(0, 3, weight=4.0))
    assert [draw.position for draw in drawn.draws(5, 20)] == list(range(5, 25))


def test_curriculum_draws_short_samples_first() -> None:
    frames = np.array([4] * 6 + [8] * 6 + [16] * 20)
    stages = [CurriculumStage(0.2, 4), CurriculumStage(0.4, 8)]
    drawn = stream(
        source(0, 12), source(12, 20), batch_size=8, num_batches=50, num_frames=frames,
        order=TrainingOrder(curriculum=stages),
    )  # fmt: skip
    lengths = frames[numbers(drawn, 0, 400)]
    assert drawn.batches_per_epoch == 50
    assert lengths[:80].max() == 4
    assert set(lengths[80:160]) == {4, 8}
    assert set(lengths[160:]) == {4, 8, 16}
    later = np.bincount(numbers(drawn, 160, 240), minlength=32)
    assert later.max() - later.min() <= 1
    assert frames[numbers(drawn, 400, 50)].max() == 16


def test_run_length_fixes_the_epoch_and_changes_no_order() -> None:
    sources = [source(0, 10), source(10, 30)]
    drawn = stream(*sources, batch_size=4, num_batches=25)
    assert drawn.batches_per_epoch == 25
    assert numbers(drawn, 0, 200) == numbers(stream(*sources, batch_size=4), 0, 200)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stream(source(0, 3), batch_size=4), "3 samples are less than one batch of 4"),
        (lambda: stream(source(0, 3, weight=0.0)), "weights must be positive"),
        (lambda: stream(source(0, 3), order=TrainingOrder(curriculum=[CurriculumStage(0.5, 1)])), "trainer.max_steps"),
        (
            lambda: stream(
                source(0, 3), num_batches=9, num_frames=np.array([1, -1, 1]),
                order=TrainingOrder(curriculum=[CurriculumStage(0.5, 1)]),
            ),
            "1 samples do not tell their length",
        ),
        (
            lambda: stream(
                source(0, 3), num_batches=9, num_frames=np.array([5, 6, 7]),
                order=TrainingOrder(curriculum=[CurriculumStage(0.5, 4)]),
            ),
            "no sample has at most 4 frames",
        ),
        (lambda: TrainingOrder(curriculum=[CurriculumStage(0.5, 4), CurriculumStage(0.5, 8)]), "must grow"),
        (lambda: TrainingOrder(curriculum=[CurriculumStage(1.5, 4)]), "until_fraction must grow"),
        (lambda: TrainingOrder(shuffle_block=0), "shuffle_block"),
        (lambda: TrainingBatches(stream(source(0, 9)), 3, 0, 2, int), "batch_size 3 counts the samples of all ranks"),
        (lambda: EvaluationBatches(1, 4, 0, 2), "1 samples cannot be judged on 2 ranks"),
    ],
)  # fmt: skip
def test_impossible_orders_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


@given(num_samples=st.integers(1, 60), per_rank=st.integers(1, 5), world=st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_evaluation_reads_every_sample_once_in_equally_many_batches(
    num_samples: int, per_rank: int, world: int
) -> None:
    if num_samples < world:
        return
    ranks = [list(EvaluationBatches(num_samples, per_rank * world, rank, world)) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    assert sorted(draw.sample for batches in ranks for batch in batches for draw in batch) == list(range(num_samples))
    assert all(1 <= len(batch) <= per_rank + 1 for batches in ranks for batch in batches)
    if world == 1:
        assert [draw.sample for batch in ranks[0] for draw in batch] == list(range(num_samples))
