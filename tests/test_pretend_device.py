"""The pretended device refuses what a real one refuses and notes when its host would wait."""

import json
from typing import Any

import pytest

from tests.child_program import ROOT, results_of

WAITS = {
    "x.sum().item()": ["_local_scalar_dense"],
    "bool((x > 0).all())": ["_local_scalar_dense"],
    "x.tolist()": ["_to_copy"],
    "x.cpu()": ["_to_copy"],
    "torch.zeros(2, 3).copy_(x)": ["copy_"],
    "x.nonzero()": ["nonzero"],
    "x[x > 0]": ["index"],
    "x.__setitem__(x > 0, 1.0)": ["index_put_"],
    "torch.equal(x, x)": ["equal"],
    "ones.repeat_interleave(ones)": ["repeat_interleave"],
    "torch.bincount(ones)": ["bincount"],
    "torch.zeros(2).to(DEVICE)": ["_to_copy"],
    "torch.tensor([1, 2], device=DEVICE)": ["_copy_from"],
    "x[torch.tensor([0])]": ["index"],  # indices of the CPU are copied
    # What does not wait:
    "torch.zeros(2).to(DEVICE, non_blocking=True)": [],
    "torch.zeros(2).cpu()": [],
    "torch.zeros(2).nonzero()": [],
    "torch.arange(3, device=DEVICE)": [],
    "x[ones]": [],
    "x.masked_fill(x > 0, 1.0)": [],
    "ones.repeat_interleave(ones, output_size=2)": [],
    "torch.optim.AdamW([weight]).step()": [],
    "run_again(torch.nn.functional.silu, weight, use_reentrant=False).sum().backward()": [],
}
REFUSED = ["x + torch.ones(3)", "torch.cat([x, torch.ones(2, 3)])", "torch.ones(3)[ones]", "x.numpy()"]
PROGRAM = """
import copy, json, sys
import torch
from torch.utils.checkpoint import checkpoint as run_again
from components.packed_frames import count_up
from tests.pretend_device import DEVICE, PretendedDevice, PretendedTensor, move_model

x, ones = PretendedTensor(torch.randn(2, 3)), PretendedTensor(torch.ones(2, dtype=torch.int64))
results = {}
for statement in json.loads(sys.argv[1]):
    weight = torch.nn.Parameter(PretendedTensor(torch.randn(2)))
    weight.grad = torch.ones_like(weight)
    with PretendedDevice() as device:
        try:
            eval(statement)
        except (RuntimeError, TypeError) as error:
            results[statement] = str(error)
        else:
            results[statement] = device.waits

with PretendedDevice() as device:
    count_up(PretendedTensor(torch.tensor([3, 1])))
results["waits of count_up"] = device.waits


def train(model, inputs):
    torch.manual_seed(1)
    for _ in range(2):
        loss = model(inputs).square().sum()
        loss.backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
    return loss


model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 4))
model[2].weight = model[0].weight
inputs, results["losses"] = torch.randn(2, 4), []
results["losses"].append(train(copy.deepcopy(model), inputs).item())
with PretendedDevice() as device:
    loss = train(move_model(model), inputs.to(DEVICE, non_blocking=True))
results["losses"].append(loss.values.item())
results["still tied"], results["waits of training"] = model[2].weight is model[0].weight, device.waits
"""


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return dict(results_of(PROGRAM, json.dumps([*WAITS, *REFUSED])))


@pytest.mark.parametrize("statement", WAITS)
def test_wait_is_noted(statement: str, results: dict[str, Any]) -> None:
    assert [operation for operation, _, _ in results[statement]] == WAITS[statement]


@pytest.mark.parametrize("statement", REFUSED)
def test_tensor_of_the_cpu_is_refused(statement: str, results: dict[str, Any]) -> None:
    assert "CPU" in results[statement]


def test_line_that_waits_is_named(results: dict[str, Any]) -> None:
    [(_, line, called)] = results["waits of count_up"]
    file, number = line.split(":")
    assert "counts.max()" in (ROOT / file).read_text(encoding="utf-8").splitlines()[int(number) - 1]
    assert called == line


def test_moved_model_has_the_numbers_and_the_ties_of_the_first(results: dict[str, Any]) -> None:
    assert results["losses"][0] == results["losses"][1]
    assert results["still tied"]
    assert results["waits of training"] == []
