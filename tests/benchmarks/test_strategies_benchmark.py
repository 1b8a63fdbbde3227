from collections.abc import Sequence

import pytest
import torch
from torch import nn

from benchmarks.strategies.__main__ import SINGLE, STRATEGIES, failures, main
from benchmarks.strategies.report import Outcome, describe
from benchmarks.strategies.tensor_bytes import KINDS, held_bytes
from benchmarks.strategies.training import PHASES, Measured, make_strategy
from lightning_modules.checkpoints.portable_checkpoints import PortableCheckpoints
from tests.process_group import one_group_at_a_time

MIB = 2**20
FLOAT32 = 4


def make_outcome(losses: Sequence[float], *, frozen_saved: int = 0, seconds: Sequence[float] = (1.0,)) -> Outcome:
    held = {kind: {"cuda": MIB, "cpu": 2 * MIB} for kind in KINDS}
    ranks = [Measured(list(losses), each, held, dict.fromkeys(PHASES, 3 * MIB)) for each in seconds]
    return Outcome(ranks, 5 * MIB, [4 * MIB] * len(ranks), frozen_saved, 7, frozenset({"weight"}))


def test_shared_memory_is_counted_once_and_frozen_weights_have_neither_gradients_nor_states() -> None:
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    model[1].weight = model[0].weight
    model[2].requires_grad_(False)
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    for _ in range(2):
        model(torch.ones(1, 8)).sum().backward()
        optimizer.step()
    weight = 64 * FLOAT32
    assert held_bytes(model, optimizer) == {
        "parameters": {"cpu": 2 * weight},
        "gradients": {"cpu": weight},
        "optimizer": {"cpu": 2 * weight + FLOAT32},  # its step count too
    }


def test_what_is_on_the_host_is_told_apart_and_the_slowest_rank_counts() -> None:
    table = describe(
        {SINGLE: make_outcome([1.0]), "x": make_outcome([1.5], seconds=(1.0, 3.0))}, SINGLE, SINGLE, "cuda"
    )
    row = table.splitlines()[-1]
    assert row.startswith("| x | 2 | 1.0 + 2.0 host | 1.0 + 2.0 host | 1.0 + 2.0 host | 3.0 + 6.0 host | 3.0 |")
    assert row.endswith("| 5.0 | 4.0 + 4.0 | 0 of 7 | 1 | 5.0e-01 | 3.00 |")


def test_other_losses_frozen_tensors_and_other_tensors_are_failures() -> None:
    good = make_outcome([1.0, 2.0])
    assert failures({SINGLE: good, "x": make_outcome([1.0, 2.00001])}) == []
    assert failures({SINGLE: good, "x": make_outcome([1.0, 2.001])}) == ["x's losses differ by 1.0e-03"]
    assert len(failures({SINGLE: good, "x": make_outcome([1.0, float("nan")])})) == 1
    assert failures({SINGLE: good, "x": make_outcome([1.0, 2.0], frozen_saved=3)}) == ["x saved 3 of 7 frozen tensors"]
    assert "stored other tensors" in failures({SINGLE: good, "x": good._replace(stored=frozenset())})[0]


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_is_that_of_its_config(name: str) -> None:
    strategy = make_strategy(name)
    assert isinstance(strategy, PortableCheckpoints)
    config = getattr(strategy, "config", None)
    if name.startswith("zero"):
        assert config is not None
        assert config["zero_optimization"]["stage"] == int(name[4])
        assert ("offload_optimizer" in config["zero_optimization"]) == name.endswith("offload")


@one_group_at_a_time
@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_strategies_train_alike_and_spread_what_they_hold(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--layers", "1", "--width", "128", "--encoder-layers", "1", "--encoder-width", "32", "--steps", "3"]
    assert main([*sizes, "--strategies", "fsdp2", "--device", "cpu"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    together = {row[0].removeprefix("| "): float(row[5]) for row in rows[1:]}
    assert together["ddp"] == together[SINGLE]
    assert together["fsdp2"] < 0.6 * together["ddp"]
