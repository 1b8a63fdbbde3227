import copy
from typing import Any

import pytest
from torch import nn

from components.recorded_arguments import RecordsArguments, constructor_arguments, replace_argument


class Part(RecordsArguments, nn.Module):
    def __init__(self, layer: nn.Module, width: int = 4, *, bias: bool = True, **others: Any) -> None:
        super().__init__()
        self.layer = layer
        self.options = (width, bias, others)


def test_arguments_are_known_by_name_with_defaults() -> None:
    layer = nn.Linear(2, 2)
    part = Part(layer, bias=False, depth=3)
    assert constructor_arguments(part) == {"layer": layer, "width": 4, "bias": False, "depth": 3}


def test_remembered_modules_are_no_children_twice() -> None:
    part = Part(nn.Linear(2, 2))
    assert [name for name, _ in part.named_children()] == ["layer"]
    assert sorted(part.state_dict()) == ["layer.bias", "layer.weight"]


def test_copies_remember_too() -> None:
    again = copy.deepcopy(Part(nn.Linear(2, 2), 8))
    arguments = constructor_arguments(again)
    assert arguments["width"] == 8
    assert arguments["layer"] is again.layer


def test_an_argument_can_be_replaced() -> None:
    part = Part(nn.Linear(2, 2), 8)
    replace_argument(part, "width", 16)
    assert constructor_arguments(part)["width"] == 16


def test_wrong_arguments_fail_as_without_the_record() -> None:
    with pytest.raises(TypeError, match=r"missing"):
        Part()  # type: ignore[call-arg]
