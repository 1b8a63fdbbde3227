"""The same global batches give the same training, with every strategy and number of processes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures_models import WITHOUT_GRADIENT, PartFolders, make_part_folders
from tests.lightning_modules.strategies import train_with_strategies
from tests.process_group import one_group_at_a_time, run_processes

pytestmark = [pytest.mark.timeout(600), one_group_at_a_time]


def run(names: list[str], folder: Path, num_ranks: int) -> dict[str, dict[str, Any]]:
    """Train under each strategy in turn; losses by step and final weights of each."""
    parts = make_part_folders(folder)
    arguments = [",".join(names), *parts, str(folder)]
    run_processes(train_with_strategies.__name__, arguments, num_ranks, timeout=550)
    return {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in names}


def train_alone(name: str, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    parts: PartFolders = make_part_folders(folder)
    return train_with_strategies.train(name, parts, folder, 0, 1)


def assert_equal_training(result: dict[str, Any], expected: dict[str, Any]) -> None:
    assert len(expected["losses"]) == train_with_strategies.NUM_STEPS
    assert expected["losses"][-1] < expected["losses"][0]
    torch.testing.assert_close(result["losses"], expected["losses"], rtol=0, atol=1e-5)
    assert result["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        if not name.endswith(WITHOUT_GRADIENT):
            torch.testing.assert_close(result["weights"][name], weight, rtol=0, atol=5e-5, msg=lambda text: text)


@pytest.mark.slow
def test_two_processes_train_as_one_does_under_every_strategy(tmp_path: Path) -> None:
    names = ["ddp", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload", "fsdp2"]
    results = run(names, tmp_path, 2)
    alone = train_alone("single_device", tmp_path / "alone")
    for name in names:
        assert_equal_training(results[name], alone)


@pytest.mark.slow
def test_what_saves_memory_changes_no_number(tmp_path: Path) -> None:
    variants = ("checkpointing", "every_segment", "both", "lora")
    strategies = ("zero2", "zero3", "fsdp2")
    results = run([f"{strategy}+{variant}" for variant in variants for strategy in strategies], tmp_path, 2)
    for variant in variants:
        alone = train_alone(f"single_device+{variant}", tmp_path / variant)
        for strategy in strategies:
            assert_equal_training(results[f"{strategy}+{variant}"], alone)


@pytest.mark.nightly
def test_accumulated_batches_train_as_one_batch_of_all_their_samples_under_every_strategy(tmp_path: Path) -> None:
    """On one process or two: ranks and batches have answers of unequal length."""
    names = [f"{strategy}+accumulate" for strategy in ("ddp", "zero1", "zero2", "zero3", "fsdp2")]
    results = run(names, tmp_path, 2)
    for name, number in (("accumulate", "one"), ("joined", "other")):
        results[name] = train_alone(f"single_device+{name}", tmp_path / number)
    joined = results.pop("joined")
    for result in results.values():
        assert_equal_training(result, joined)


@pytest.mark.nightly
def test_half_precision_trains_close_to_float32(tmp_path: Path) -> None:
    names = [f"{strategy}+bf16" for strategy in ("ddp", "zero1", "zero2", "zero3", "fsdp2")]
    results = run(names, tmp_path, 2)
    exact = train_alone("single_device", tmp_path / "alone")
    for name in names:
        assert results[name]["losses"] != exact["losses"]  # it really computed in bfloat16
        torch.testing.assert_close(results[name]["losses"], exact["losses"], rtol=0.02, atol=0)
