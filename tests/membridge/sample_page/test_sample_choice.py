"""The samples of a page are spread over all shards, and wrong ones are among them."""

import itertools

import pytest

from membridge.sample_page.sample_choice import evenly


@pytest.mark.parametrize("number", [1, 2, 3, 7, 10, 99])
@pytest.mark.parametrize("length", [0, 1, 5, 10, 100])
def test_items_are_chosen_at_equal_distances(length: int, number: int) -> None:
    items = list(range(length))
    chosen = evenly(items, number)
    assert len(chosen) == min(length, number)
    assert sorted(set(chosen)) == chosen
    distances = {after - before for before, after in itertools.pairwise(chosen)}
    assert not distances or max(distances) - min(distances) <= 1
    if number > 1 and length:
        assert (chosen[0], chosen[-1]) == (0, length - 1)
