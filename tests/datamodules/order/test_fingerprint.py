import pytest

from datamodules.order.fingerprint import check_facts

EARLIER = {
    "order.window": 32,
    "budget": {"max_frames": 64, "max_tokens": None, "bundle": 4},
    "units of the curriculum's stages": [80],
}
CURRENT = {
    "order.window": 32,
    "budget": {"max_frames": 64, "max_tokens": None, "group_size": 4},
    "draws of the curriculum's stages": [80],
}


def test_a_checkpoint_of_an_earlier_version_has_the_same_facts_by_other_names() -> None:
    check_facts(EARLIER, CURRENT)
    check_facts(CURRENT, CURRENT)


@pytest.mark.parametrize("stored", [EARLIER, CURRENT], ids=["earlier", "current"])
def test_a_changed_group_size_is_refused_by_name(stored: object) -> None:
    budget = {"max_frames": 64, "max_tokens": None, "group_size": 8}
    with pytest.raises(ValueError, match=r"Changed: budget: .*\"group_size\": 4.* -> .*\"group_size\": 8"):
        check_facts(stored, CURRENT | {"budget": budget})


def test_a_checkpoint_without_facts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"order.window: null -> 32"):
        check_facts(None, CURRENT)
