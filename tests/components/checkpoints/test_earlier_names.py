import pytest

from components.checkpoints.earlier_names import current_name


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_pooling_of_the_bridge_is_one_of_the_model(prefix: str) -> None:
    assert (
        current_name(f"{prefix}bridge.patch_pooling.convolution.weight") == f"{prefix}patch_pooling.convolution.weight"
    )


@pytest.mark.parametrize(
    "name",
    ["model.bridge.gate", "bridge.patch_pooling_gate", "model.memory.patch_pooling.weight", "patch_pooling.bias"],
)
def test_other_names_stay(name: str) -> None:
    assert current_name(name) == name
