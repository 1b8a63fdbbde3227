import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.order.rank_batches import TrainingBatches
from datamodules.order.stream import shuffled_pass
from datamodules.order.training_order import CurriculumStage, TrainingOrder
from tests.datamodules.order.sample_tables import batches_of, drawn, numbers, source, table, take


def test_every_sample_comes_exactly_once_an_epoch() -> None:
    batches = batches_of(source(0, 7, 5), source(12, 9))
    epochs = [numbers(batches, epoch * 21, 21) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(21)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_order_is_a_pure_function_of_seed_and_epoch() -> None:
    sources = [source(0, 7, 5), source(12, 9, weight=2.0)]
    straight = numbers(batches_of(*sources), 0, 90)
    fresh = batches_of(*sources)
    assert numbers(fresh, 60, 30) + numbers(fresh, 0, 60) == straight[60:] + straight[:60]
    assert numbers(batches_of(*sources, order=TrainingOrder(seed=1)), 0, 90) != straight


def test_weights_are_passes_an_epoch_and_what_is_left_out_comes_next() -> None:
    batches = batches_of(source(0, 10), source(10, 10, weight=0.5), source(20, 10, weight=2.0))
    first, second = (np.array(numbers(batches, epoch * 35, 35)) for epoch in range(2))
    for epoch in (first, second):
        assert (np.bincount(epoch, minlength=30)[:10] == 1).all()
        assert (np.bincount(epoch, minlength=30)[20:] == 2).all()
    halves = [set(epoch[(epoch >= 10) & (epoch < 20)]) for epoch in (first, second)]
    assert len(halves[0]) == len(halves[1]) == 5
    assert halves[0] | halves[1] == set(range(10, 20))


def test_sources_are_mixed_and_not_one_after_the_other() -> None:
    mixed = np.array(numbers(batches_of(source(0, 500), source(500, 500)), 0, 1000))
    parts = [(part < 500).mean() for part in np.split(mixed, 10)]
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
    batches = batches_of(source(0, 12, *sizes), batch_size=12)
    ranks = [list(TrainingBatches(batches, None, rank, world, lambda: start)) for rank in range(world)]
    alone = take(batches, start, len(ranks[0]))
    for whole, parts in zip(alone, zip(*ranks, strict=True), strict=True):
        assert sorted((draw for part in parts for draw in part), key=lambda draw: draw.position) == whole
        assert all(len(part) == 12 // world for part in parts)


def test_what_fills_no_whole_batch_opens_the_next_epoch() -> None:
    batches = batches_of(source(0, 10), batch_size=4)
    seen: list[int] = []
    loader = TrainingBatches(batches, None, 0, 1, lambda: len(seen))
    for _ in range(5):
        epoch = list(loader)
        assert len(epoch) == 2
        seen += [draw.sample for batch in epoch for draw in batch]
    assert all(sorted(seen[start : start + 10]) == list(range(10)) for start in range(0, 40, 10))


def test_position_tells_every_draw_from_every_other() -> None:
    batches = batches_of(source(0, 3, weight=4.0))
    assert [draw.position for draw in drawn(batches, 5, 20)] == list(range(5, 25))


def test_curriculum_draws_short_samples_first() -> None:
    frames = np.array([4] * 6 + [8] * 6 + [16] * 20)
    stages = [CurriculumStage(10, 4), CurriculumStage(20, 8)]
    batches = batches_of(
        source(0, 12), source(12, 20), batch_size=8, samples=table(frames.tolist()),
        order=TrainingOrder(curriculum=stages),
    )  # fmt: skip
    lengths = frames[numbers(batches, 0, 400)]
    assert lengths[:80].max() == 4
    assert set(lengths[80:160]) == {4, 8}
    assert set(lengths[160:]) == {4, 8, 16}
    later = np.bincount(numbers(batches, 160, 240), minlength=32)
    assert later.max() - later.min() <= 1
    assert frames[numbers(batches, 400, 50)].max() == 16


def test_run_length_fixes_the_epoch_and_changes_no_order() -> None:
    sources = [source(0, 10), source(10, 30)]
    batches = batches_of(*sources, batch_size=4)
    assert len(TrainingBatches(batches, 25, 0, 1, int)) == 25
    assert len(TrainingBatches(batches, None, 0, 1, int)) == 10
    assert numbers(batches, 0, 200) == numbers(batches_of(*sources, batch_size=4), 0, 200)


def test_temperature_moves_the_shares_from_size_towards_equal() -> None:
    sources = [source(0, 10), source(10, 1000)]
    shares = []
    for temperature in (1.0, 2.0, 1e6):
        seen = np.array(numbers(batches_of(*sources, order=TrainingOrder(temperature=temperature)), 0, 1010))
        shares.append(int((seen < 10).sum()))
    assert shares == [10, round(1010 * 10**0.5 / (10**0.5 + 1000**0.5)), 505]


def test_a_source_that_is_drawn_often_comes_pass_after_pass() -> None:
    batches = batches_of(source(0, 10), source(10, 1000), order=TrainingOrder(temperature=1e6))
    seen = np.array(numbers(batches, 0, 2020))
    often, seldom = seen[seen < 10], seen[seen >= 10]
    assert all(sorted(often[start : start + 10]) == list(range(10)) for start in range(0, 1000, 10))
    assert sorted(seldom[:1000]) == list(range(10, 1010))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: TrainingBatches(batches_of(source(0, 3), batch_size=4), None, 0, 1, int),
            "less than one batch; lower batch_size",
        ),
        (lambda: batches_of(source(0, 3, weight=0.0)), "weights must be positive"),
        (
            lambda: batches_of(
                source(0, 3), stated_frames=None, order=TrainingOrder(curriculum=[CurriculumStage(5, 1)])
            ),
            "stated_frames of the samples, and none",
        ),
        (
            lambda: batches_of(
                source(0, 3), samples=table([1, -1, 1]),
                order=TrainingOrder(curriculum=[CurriculumStage(5, 1)]),
            ),
            "1 samples do not state their length",
        ),
        (
            lambda: batches_of(
                source(0, 3), samples=table([5, 6, 7]),
                order=TrainingOrder(curriculum=[CurriculumStage(5, 4)]),
            ),
            "no sample has at most 4 frames",
        ),
        (lambda: TrainingOrder(curriculum=[CurriculumStage(5, 4), CurriculumStage(5, 8)]), "must grow"),
        (lambda: TrainingOrder(curriculum=[CurriculumStage(0, 4)]), "until_step must grow"),
        (lambda: TrainingOrder(shuffle_block=0), "shuffle_block"),
        (lambda: TrainingOrder(temperature=0), "temperature"),
        (lambda: TrainingOrder(conversations_per_video=0), "conversations_per_video"),
        (lambda: TrainingOrder(window=0), "window must be positive"),
        (
            lambda: TrainingBatches(batches_of(source(0, 9), batch_size=3), None, 0, 2, int),
            "batch_size 3 counts the samples of all ranks",
        ),
        (
            lambda: batches_of(source(0, 9, weight=0.5), order=TrainingOrder(temperature=2.0)),
            "by order.temperature or by their weights",
        ),
        (lambda: batches_of(source(0, 900), source(900, 9, weight=0.01)), r"source 1 \(of 9 draws\) would never"),
    ],
)  # fmt: skip
def test_impossible_orders_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
